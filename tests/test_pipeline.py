"""The whole chain, as a newcomer runs it: `make demo` with every script, the real runtime and the
real emulator; then the notebook, in the data folder of that demo.
"""

import ast
import csv
import re
import zipfile

import nbformat
import pytest
from conftest import ROOT, TEN, make
from nbclient import NotebookClient

from dog_breeds.learning.saved_models import find_best_model, read_report

STAGES = (
    "make_dataset.py",
    "data_selection.py",
    "exploratory_data_analysis.py",
    "training.py",
    "convert_model.py",
    "lambda_function.py",
)
NOTEBOOK = ROOT / "notebook.ipynb"
# The first ones: they are split as in the demo, whose features are in the cache
EIGHT = sorted(TEN)[:8]
MACHINE_PATH = (
    r"(?<![\w./:>])/(?:home|root|tmp|Users|work|mnt|opt|usr|var)/|\b[A-Z]:\\\\|site-packages"
)


def answer(output: str) -> tuple[str, dict[str, float]]:
    """The breed of the image that the demo asked about, and the prediction: breed -> percent."""
    wnid_and_name = re.search(r"^photo: (\S+)/\S+\.jpg$", output, re.M).group(1)
    breed = wnid_and_name.split("-", 1)[1].lower().replace("-", "_")
    lines = output[output.index("photo: ") :].splitlines()[1:]
    return breed, {line.split()[0]: float(line.split()[1].rstrip("%")) for line in lines}


def test_demo_ends_in_the_right_answer(made_demo):
    output = made_demo.output
    for stage in STAGES:
        assert f"--- {stage}" in output
    breed, prediction = answer(output)
    assert len(prediction) == 10
    assert next(iter(prediction)) == breed
    assert 99 < sum(prediction.values()) < 101


def test_demo_asks_about_a_test_image(made_demo):
    image = re.search(r"^photo: (\S+)$", made_demo.output, re.M).group(1)
    assert dict(csv.reader(made_demo.model.with_suffix(".csv").open()))[image] == "test"


def test_a_clone_can_predict_without_training(made_demo):
    """The committed model answers for any image; a drawn dog is none of its breeds."""
    image = next(made_demo.data_dir.glob("raw/Images/*/*.jpg"))
    result = make("predict", f"IMAGE={image}")
    assert result.returncode == 0, result.stderr
    first, *breeds = result.stdout.splitlines()
    assert re.fullmatch(
        "It looks most like .+, but may be a breed that the model does not know.", first
    )
    labels = (
        zipfile.ZipFile(ROOT / "models/dog_breeds_120.tflite").read("labels.txt").decode().split()
    )
    names = [line.split()[0] for line in breeds]
    assert len(set(names)) == len(names) == 10 and set(names) < set(labels)


def test_second_demo_skips_what_is_done(made_demo):
    file = made_demo.folder / "top_10_dog_breeds.tflite"
    before = file.stat().st_mtime_ns
    result = make("demo", f"DEMO={made_demo.folder}", f"PORT={made_demo.port}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"^--- (\w+)\.py", result.stdout, re.M) == ["lambda_function"]
    assert answer(result.stdout)[1]
    assert file.stat().st_mtime_ns == before


def test_demo_touches_nothing_outside_its_folder(made_demo):
    assert made_demo.changed_files == []


# --- The notebook ---------------------------------------------------------------------------------


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


def test_the_notebook_runs_on_the_demo_dataset(committed, made_demo, tmp_path, monkeypatch):
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


def test_the_notebook_has_no_logic_of_its_own(committed):
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


def test_the_notebook_is_committed_with_the_outputs_of_one_whole_run(committed):
    assert NOTEBOOK.stat().st_size < 1.65e6
    nbformat.validate(committed)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(images(committed)) == 14
    assert not outputs(committed, "error")
    text = NOTEBOOK.read_text()
    assert "stderr" not in text
    assert not re.search(MACHINE_PATH, re.sub(r'"image/png": ".*?"', "", text))
