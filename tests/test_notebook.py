"""The notebook runs from top to bottom on the demo set, and is committed with such a run's
outputs."""

import ast
import re

import nbformat
import pytest
from conftest import ROOT, TEN
from nbclient import NotebookClient

from dog_breeds.learning.saved_models import find_best_model, read_report

NOTEBOOK = ROOT / "notebook.ipynb"
# The first ones: they are split as in the demo, whose features are in the cache
EIGHT = sorted(TEN)[:8]
MACHINE_PATH = (
    r"(?<![\w./:>])/(?:home|root|tmp|Users|work|mnt|opt|usr|var)/|\b[A-Z]:\\\\|site-packages"
)


def outputs(notebook, kind):
    """All outputs of one kind: stream, display_data, execute_result or error."""
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == kind
    ]


def images(notebook):
    results = outputs(notebook, "execute_result") + outputs(notebook, "display_data")
    return [result.data["image/png"] for result in results if "image/png" in result.data]


@pytest.fixture
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_runs_on_the_demo_set(committed, made_demo, tmp_path, monkeypatch):
    """In the data folder of `make demo`, whose cache has most of the features."""
    settings = {
        "DATA_DIR": made_demo.data_dir,
        "OUTPUT_DIR": tmp_path,
        "BREEDS": " ".join(EIGHT),
        "QUICK": 1,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    for cell in committed.cells:
        cell.pop("outputs", None)
    fresh = NotebookClient(
        nbformat.from_dict(committed), timeout=600, resources={"metadata": {"path": ROOT}}
    ).execute()
    assert len(images(fresh)) == 14
    assert not [stream.text for stream in outputs(fresh, "stream") if stream.name == "stderr"]

    model = find_best_model(tmp_path)
    report = read_report(model)
    assert report["classes"] == EIGHT
    assert report["test_accuracy_whole_photos"] >= 0.9
    assert report["test"]["unknown_breeds"]["auroc_whole_photos"] > 0.8
    assert model.name in outputs(fresh, "stream")[-1].text


def test_it_holds_no_logic_of_its_own(committed):
    for cell in committed.cells:
        if cell.cell_type == "code":
            tree = ast.parse(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE))
            found = {type(node).__name__ for node in ast.walk(tree)}
            assert not found & {
                "FunctionDef",
                "ClassDef",
                "Lambda",
                "For",
                "While",
                "Try",
                "With",
            }, cell.source


def test_it_is_committed_with_the_outputs_of_one_whole_run(committed):
    assert NOTEBOOK.stat().st_size < 1.65e6
    nbformat.validate(committed)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(images(committed)) == 14
    assert not outputs(committed, "error")
    text = NOTEBOOK.read_text()
    assert "stderr" not in text
    assert not re.search(MACHINE_PATH, re.sub(r'"image/png": ".*?"', "", text))
