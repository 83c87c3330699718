"""The house: the modules of dog_breeds import only downwards, never a script, and every file can be read in one go."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = {file.stem: file for file in ROOT.glob("*.py")}
MODULES = {file.stem: file for file in (ROOT / "dog_breeds").glob("*.py")}
MAY_IMPORT = {  # modules that are not named import nothing of the package
    "archives": {"console"},
    "bulk": {"client_pictures", "console", "workers"},
    "client_pictures": {"pixels"},
    "class_folders": {"client_pictures", "console", "duplicates", "pixels", "workers"},
    "dataset": {"recipe", "console"},
    "demo": {"archives", "console", "demo_dogs"},
    "duplicates": {"dataset", "pixels", "workers", "console"},
    "gateway": {"console"},
    "features": {"dataset", "pixels", "recipe", "tflite", "workers", "console"},
    "heads": {"features", "metrics", "recipe", "workers"},
    "own_classes": {"features", "heads", "metrics", "recipe"},
    "page": {"http_events"},
    "picture_sheets": {
        *("client_pictures", "dataset", "explanation", "features", "heads", "metrics", "plot_style", "tflite")
    },
    "plot_style": {"console"},
    "safe_pictures": {"http_events", "pixels", "web_pictures"},
    "s3_pictures": {"http_events", "web_pictures"},
    "tflite": {"workers", "console"},
    "web_pictures": {"http_events"},
    "xception": {"features", "console", "recipe"},
}


def imports(file: Path) -> set[str]:
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
def test_modules_import_only_downwards_and_no_script(module):
    names = imports(MODULES[module])
    assert {name for name in MODULES if f"dog_breeds.{name}" in names} <= MAY_IMPORT.get(module, set())
    assert not {name.split(".")[0] for name in names} & SCRIPTS.keys()


@pytest.mark.parametrize("file", sorted([*SCRIPTS.values(), *MODULES.values()]), ids=lambda file: file.name)
def test_tensorflow_is_loaded_by_xception_alone(file):
    """And xception by nobody, but by its name in other processes: beside TensorFlow the serving runtime crashes."""
    roots = {name.split(".")[0] for name in imports(file)}
    assert file.stem in ("xception", "make_dataset") or not roots & {"tensorflow", "keras"}
    assert "dog_breeds.xception" not in imports(file)


def test_the_table_has_no_cycle_and_no_module_that_is_gone():
    left = {name: set(MAY_IMPORT.get(name, ())) for name in MODULES}
    assert MAY_IMPORT.keys() <= MODULES.keys() and set().union(*left.values()) <= MODULES.keys()
    while left:  # take away what rests on nothing that is left
        lowest = {name for name, below in left.items() if not below & left.keys()}
        assert lowest, f"a cycle among {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in lowest}


@pytest.mark.parametrize("file", sorted([*SCRIPTS.values(), *MODULES.values()]), ids=lambda file: file.name)
def test_no_file_is_longer_than_300_lines(file):
    assert len(file.read_text().splitlines()) <= 300
