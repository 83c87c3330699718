"""The layout of the package: each wing imports only from the wings above it, and never a script."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = {file.stem: file for file in ROOT.glob("*.py")}
PACKAGE = ROOT / "dog_breeds"
# From the top: a wing may import itself and the wings before it. "" is the hall, dog_breeds itself.
WINGS = ("serving", "", "clients", "data", "learning")
MOST_LINES = 420


def module_name(file: Path) -> str:
    """Return the name by which a module of the package is imported."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py") if file.stem != "__init__"}


def wing(module: str) -> str:
    """Return the wing of a module; "" for the hall."""
    return module.split(".")[1] if module.count(".") == 2 else ""


def imported_names(file: Path) -> set[str]:
    """Return the full names of all that a file imports, at its head or within functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_wing_imports_only_what_stands_above_it_and_no_script(module):
    names = imported_names(MODULES[module])
    allowed = WINGS[: WINGS.index(wing(module)) + 1]
    below = {name for name in names & MODULES.keys() if wing(name) not in allowed}
    assert not below, f"{module} imports {sorted(below)}"
    assert not {name.split(".")[0] for name in names} & SCRIPTS.keys()


def test_the_handler_imports_the_serving_wing_alone():
    names = imported_names(SCRIPTS["lambda_function"]) & MODULES.keys()
    assert {wing(name) for name in names} == {"serving"}


def test_no_module_imports_itself_through_others():
    graph = {name: imported_names(file) & MODULES.keys() for name, file in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) == MODULES.keys()  # raises CycleError


@pytest.mark.parametrize(
    "file", sorted([*SCRIPTS.values(), *MODULES.values()]), ids=lambda file: file.name
)
def test_tensorflow_is_loaded_by_xception_alone(file):
    """Other modules call xception by name, in another process: the serving runtime and TensorFlow
    crash in one process.
    """
    names = imported_names(file)
    roots = {name.split(".")[0] for name in names}
    assert file.stem in ("xception", "make_dataset") or not roots & {"tensorflow", "keras"}
    assert "dog_breeds.learning.xception" not in names


@pytest.mark.parametrize(
    "file", sorted([*SCRIPTS.values(), *MODULES.values()]), ids=lambda file: file.name
)
def test_files_stay_short(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES
