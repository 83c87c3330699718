"""Conversion: each format compared with Keras, the check before a file is written, its facts, and
the committed file.
"""

import csv
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import COMMITTED, FEW, MIRROR, ROOT, RUNTIMES, SIZE, exit_message, make
from handler_process import run_python

import convert_model
from dog_breeds import recipe
from dog_breeds.data import dataset
from dog_breeds.learning import features, heads
from dog_breeds.learning.metrics import log_softmax
from dog_breeds.learning.saved_models import read_report, source_files
from dog_breeds.learning.tflite import inspect_backbone, run_file
from dog_breeds.serving.facts import read_facts
from dog_breeds.workers import call_in_new_process

NAMES = ("probabilities", "similarity", "features")


@pytest.fixture(scope="module")
def views(small) -> list[features.View]:
    """Return the crops and then the whole photos of the test images."""
    task = small.task
    return [
        view(task, image) for view in features.VIEW_KINDS.values() for image in task.images("test")
    ]


@pytest.fixture(scope="module")
def files(small, tmp_path_factory) -> dict[str, Path]:
    """Return the small model in each format, without facts."""
    folder = tmp_path_factory.mktemp("files")
    for name in convert_model.FORMATS:
        (folder / f"{name}.tflite").write_bytes(
            convert_model.to_tflite(small.task, small.model, name, folder)
        )
    return {name: folder / f"{name}.tflite" for name in convert_model.FORMATS}


@pytest.fixture(scope="module")
def keras_answers(small, views, in_keras_process) -> dict[str, np.ndarray]:
    """Return the outputs of the .h5 file in plain Keras."""
    return in_keras_process("keras_side", "answers", small.model, views)


@pytest.fixture(scope="module", autouse=True)
def keras_predicts_once(in_keras_process) -> Iterator[None]:
    """Let Keras, which is slow, predict each image only once for all tests."""
    predictions = {}

    def call(module, function, *arguments):
        if function != "predict":
            return in_keras_process(module, function, *arguments)
        model, _, views = arguments
        if not all((model, view) in predictions for kind in views for view in views[kind]):
            for kind, columns in in_keras_process(module, function, *arguments).items():
                predictions.update(
                    zip(
                        [(model, view) for view in views[kind]],
                        zip(*columns, strict=True),
                        strict=True,
                    )
                )
        rows = {kind: [predictions[model, view] for view in views[kind]] for kind in views}
        return {kind: tuple(map(np.array, zip(*rows[kind], strict=True))) for kind in views}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_model, "call_in_new_process", call)
        yield


def answers(files, views, size, runtime, names=NAMES):
    """Return a list for each model file: the outputs `names` of every view.

    Any runtime except the default one runs in a new process, because a process can load only one.
    """
    if runtime != "ai_edge_litert" and multiprocessing.parent_process() is None:
        return call_in_new_process(__name__, "answers", files, views, size, runtime, names)

    def load(view):
        return features.load_pixels(view, size)

    return [list(run_file(file, views, load, names, runtime)) for file in files]


# --- Formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_format_answers_as_keras(files, views, keras_answers, runtime):
    """The limits for int8 are wide, because int8 is coarser at 75 pixels than at 299. The tests of
    the check before writing have stricter ones.
    """
    changes = {"float32": (1e-4, 1e-4), "int8": (0.3, 1)}
    rows = answers([files[name] for name in changes], views, SIZE, runtime)
    for name, outputs in zip(changes, rows, strict=True):
        given = dict(zip(NAMES, map(np.array, zip(*outputs, strict=True)), strict=True))
        change, change_of_features = changes[name]
        assert given["probabilities"].shape == (len(views), 3)
        assert given["probabilities"].sum(axis=1) == pytest.approx(1, abs=1e-5)
        difference = {key: np.abs(given[key] - keras_answers[key]) for key in NAMES}
        assert difference["probabilities"].max() < change, name
        assert difference["similarity"].max() < change / 3, name
        assert (
            difference["features"].mean() < change_of_features * keras_answers["features"].mean()
        ), name
        same = given["probabilities"].argmax(axis=1) == keras_answers["probabilities"].argmax(
            axis=1
        )
        assert same.mean() > 0.9, name


def test_sizes_follow_the_formats(files):
    megabytes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
    assert megabytes["float32"] > 80 and megabytes["int8"] < 24


def test_the_saved_model_is_keras_xception_with_the_head(small, views, in_keras_process, tmp_path):
    """The head has an inner layer, because a small search may choose a head without one."""
    task, path, rng = small.task, tmp_path / "inner.h5", np.random.default_rng(0)
    head, means = heads.first_weights(20, 3, 2048, rng), rng.random((3, 2048), np.float32)
    head = [10 * array + rng.normal(size=array.shape[-1]).astype(np.float32) for array in head]
    upright = [rng.normal(size=shape).astype(np.float32) for shape in ((2048, 1), (1,))]
    weights = task.weights
    in_keras_process(
        "dog_breeds.learning.xception", "save_model", weights, SIZE, head, means, upright, path
    )
    given = in_keras_process("keras_side", "answers", path, views[:5])
    expected = in_keras_process("keras_side", "xception_features", weights, SIZE, views[:5])
    np.testing.assert_allclose(given["features"], expected, atol=1e-4)
    logits = heads.apply_head(head, expected)
    np.testing.assert_allclose(given["probabilities"], np.exp(log_softmax(logits)), atol=1e-4)
    np.testing.assert_allclose(given["logit"][:, 0], logits.max(axis=1), rtol=1e-3)
    np.testing.assert_allclose(
        given["similarity"][:, 0], heads.similarity(expected, means), rtol=1e-4
    )
    np.testing.assert_allclose(given["upright"], expected @ upright[0] + upright[1], atol=1e-3)


# --- The gate -------------------------------------------------------------------------------------


def test_compare_measures_accuracy_agreement_and_change():
    keras = (
        np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]),
        np.array([5.0, 4.0, 3.0, 2.0]),
    )
    tflite = (
        np.array([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]]),
        np.array([5.0, 1.0, 3.0, 0.0]),
    )
    result = convert_model.compare(keras, tflite, np.array([0, 1, 0, 0]), threshold=2.5)
    assert (result["keras"]["accuracy"], result["tflite"]["accuracy"]) == (0.75, 0.5)
    assert (result["lost"], result["won"]) == (1, 0)
    assert (result["keras"]["taken_as_known"], result["tflite"]["taken_as_known"]) == (0.75, 0.5)
    assert result["same_top_class"] == 0.75 and result["largest_change"] == pytest.approx(0.2)
    # Each image has its own bin, so this is the mean of |0.9 - 1|, |0.8 - 1|, |0.6 - 1|, |0.7 - 0|
    assert result["keras"]["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4)


def test_only_more_losses_than_chance_explains_count():
    def lost(*pairs):
        return convert_model.loss_lower_bound(
            {i: {"pictures": 100, "lost": a, "won": b} for i, (a, b) in enumerate(pairs)}
        )

    assert lost((0, 0)) == 0 and lost((3, 1)) < 0 and lost((0, 9)) < 0
    assert lost((20, 5)) == pytest.approx((15 - 1.64 * 5) / 100)
    assert lost((0, 9), (20, 5), (3, 1)) == lost((20, 5))


@pytest.fixture
def refused(small, tmp_path):
    """Return a function that expects a conversion to fail and to keep the old file.

    The function returns the error message.
    """

    def attempt(error, model=small.model, **options):
        output = tmp_path / "output" / "model.tflite"
        output.parent.mkdir()
        output.write_bytes(b"the file of yesterday")
        with pytest.raises(error) as reason:
            convert_model.convert(model, output, **options)
        assert output.read_bytes() == b"the file of yesterday"
        assert list(output.parent.iterdir()) == [output]
        return str(reason.value)

    return attempt


@pytest.fixture
def shuffled_head(monkeypatch):
    """Shift the classes of each head that is written by one."""
    join = convert_model.join_head
    monkeypatch.setattr(
        convert_model,
        "join_head",
        lambda file, head, *more: join(file, [np.roll(a, 1, axis=-1) for a in head], *more),
    )


def test_a_file_that_loses_too_much_is_not_written(refused, shuffled_head):
    assert re.search(
        r"is not written: int8 loses at least \d\d\.\d\d points of accuracy", refused(RuntimeError)
    )


def test_more_may_be_lost_where_that_is_allowed(small, shuffled_head, tmp_path, monkeypatch):
    output = tmp_path / "few.tflite"
    assert (
        exit_message(monkeypatch, convert_model, small.model, "--output", output, "--max-loss", 100)
        is None
    )
    assert read_facts(output)["compared_with_keras"]["crops"]["lost"] > 0


@pytest.mark.parametrize("compared", [0, 2])
def test_float32_passes_the_gate_too(small, files, tmp_path, monkeypatch, compared):
    monkeypatch.setattr(
        convert_model, "to_tflite", lambda task, model, name, folder: files[name].read_bytes()
    )
    output = tmp_path / "few.tflite"
    convert_model.convert(small.model, output, "float32", compared=compared)
    facts, every = read_facts(output), len(small.task.images("test"))
    assert facts["quantization"] == "float32" and "test" not in facts, "those are the int8 file's"
    assert facts["backbone_sha256"] == inspect_backbone(files["float32"]).digest
    assert [facts["compared_with_keras"][kind]["pictures"] for kind in features.VIEW_KINDS] == [
        compared or every
    ] * 2


def test_ctrl_c_leaves_the_old_file(small, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_model, "predict_file", interrupt)
    (tmp_path / "old.tflite").write_bytes(b"the file of yesterday")
    said = exit_message(
        monkeypatch, convert_model, small.model, "--output", tmp_path / "old.tflite"
    )
    assert said == "convert_model.py: stopped; nothing is written"
    assert (tmp_path / "old.tflite").read_bytes() == b"the file of yesterday"


def test_other_features_than_the_backbones_are_refused(refused, monkeypatch):
    extract_features = convert_model.extract_features

    def changed(*views_and_task):
        rows = extract_features(*views_and_task)
        rows[1, 7] += 1e-6
        return rows

    monkeypatch.setattr(convert_model, "extract_features", changed)
    assert "its features differ from those in" in refused(RuntimeError)


@pytest.fixture
def copied(small, tmp_path) -> Path:
    """Return a copy of the small model, whose files a test may damage."""
    for path in source_files(small.model):
        shutil.copy(path, tmp_path)
    return tmp_path / small.model.name


def test_an_h5_of_another_head_is_refused(copied, refused):
    import h5py

    with h5py.File(copied, "r+") as file:
        kernel = file["model_weights/logits/logits/kernel"]
        kernel[...] = np.roll(kernel, 1, axis=1)
    assert f"{copied} does not match its report" in refused(ValueError, copied)


def test_a_damaged_h5_is_refused(copied, refused):
    copied.write_bytes(copied.read_bytes()[:1000])
    assert f"{copied} does not match its report" in refused(ValueError, copied)


def test_another_head_is_refused(copied, refused):
    arrays = dict(np.load(copied.with_suffix(".npz")))
    np.savez(copied.with_suffix(".npz"), **arrays | {"means": arrays["means"] + 1})
    message = f"{copied.with_suffix('.npz')} does not match its report"
    assert message in refused(ValueError, copied)


def test_a_model_of_an_earlier_version_is_refused(copied, refused):
    report = read_report(copied)
    del report["head_sha256"]
    copied.with_suffix(".json").write_text(json.dumps(report))
    assert "is not from this version of training.py; run" in refused(ValueError, copied)


def test_an_output_that_would_take_the_place_of_something_else_is_refused(
    small, tmp_path, monkeypatch
):
    for output in (small.model, tmp_path):
        said = exit_message(monkeypatch, convert_model, small.model, "--output", output)
        assert f"--output must be a file that ends in .tflite, not {output}" in said
    assert small.model.read_bytes()[1:4] == b"HDF"
    monkeypatch.chdir(recipe.MODEL.parent)
    said = exit_message(monkeypatch, convert_model, small.model)
    assert "top_10_dog_breeds.tflite here is a committed file" in said


def test_a_missing_or_other_backbone_is_named(copied, refused, tmp_path):
    report = read_report(copied)
    for file in (tmp_path / "no.tflite", recipe.MODEL):
        copied.with_suffix(".json").write_text(json.dumps(report | {"backbone": str(file)}))
        with pytest.raises(ValueError, match="does not exist, or does not have the backbone"):
            convert_model.task_of(copied)


def test_another_clone_has_the_default_backbone_elsewhere(copied, tmp_path):
    names = {"backbone": "/elsewhere/models/dog_breeds_120.tflite"}
    names["backbone_sha256"] = inspect_backbone(recipe.MODEL).digest
    copied.with_suffix(".json").write_text(json.dumps(read_report(copied) | names))
    assert convert_model.task_of(copied).backbone == recipe.MODEL


# --- The command, and the facts -------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(small, tmp_path_factory) -> Path:
    """Return the int8 file of the small model, with its facts."""
    output = tmp_path_factory.mktemp("converted") / "new" / "few.tflite"
    convert_model.convert(small.model, output)
    return output


def test_the_file_carries_its_facts(converted, small, monkeypatch, capsys):
    model, report = small.model, read_report(small.model)
    with zipfile.ZipFile(converted) as archive:
        assert archive.read("labels.txt").decode().splitlines() == FEW
        facts = json.loads(archive.read("metadata.json"))
        model_bytes = converted.read_bytes()[
            : min(entry.header_offset for entry in archive.infolist())
        ]
    assert facts["classes"] == FEW
    assert facts["display_names"]["maltese_dog"] == dataset.display_name("maltese_dog")
    assert (facts["input"]["height"], facts["input"]["width"], facts["input"]["range"]) == (
        SIZE,
        SIZE,
        [0, 255],
    )
    assert facts["photo_share"] == recipe.PHOTO_SHARE
    assert facts["temperature"] == report["temperature"]
    assert facts["unknown_rule"] == report["unknown_rule"]
    for kind in features.VIEW_KINDS:
        assert (
            facts["test"][kind].items() <= report["test"][kind].items()
            and "accuracy" in facts["test"][kind]
        )
    assert (
        facts["training_data"]["images"] == report["images"]
        and "optimistic" in facts["training_data"]["note"]
    )
    for path in source_files(model):
        assert (
            facts["provenance"]["sha256"][path.name]
            == hashlib.sha256(path.read_bytes()).hexdigest()
        )
    assert facts["model_sha256"] == hashlib.sha256(model_bytes).hexdigest()
    # All test images were compared, so the file is as accurate as the report says
    for kind in features.VIEW_KINDS:
        assert facts["compared_with_keras"][kind]["pictures"] == report["test"][kind]["pictures"]
        assert (
            facts["compared_with_keras"][kind]["tflite"]["accuracy"]
            == report["test"][kind]["accuracy"]
        )

    assert exit_message(monkeypatch, convert_model, "--show", converted) is None
    printed = capsys.readouterr().out
    for words in (
        "int8",
        "3 classes: maltese_dog, pomeranian, samoyed",
        "75 x 75 RGB",
        "logit >=",
        "sha256",
    ):
        assert words in printed


def test_the_handler_answers_as_keras(small, files, converted, keras_answers, tmp_path):
    """With the float32 file, the handler returns Keras' probabilities for photos in Base64."""
    task, served = small.task, tmp_path / "float32.tflite"
    served.write_bytes(files["float32"].read_bytes())
    convert_model.append_facts(served, read_facts(converted))
    code = """
import base64, contextlib, json, sys
from lambda_function import lambda_handler
for photo in sys.argv[1:]:
    with contextlib.redirect_stdout(sys.stderr):  # its log
        answer = lambda_handler({"image": base64.b64encode(open(photo, "rb").read()).decode()})
    print(json.dumps(answer))
"""
    photos = [task.photo(image) for image in task.images("test")]
    expected = keras_answers["probabilities"][len(photos) :]
    for runtime in RUNTIMES:
        done = run_python(code, *photos, MODEL_FILE=str(served), DOG_BREEDS_RUNTIME=runtime)
        assert done.returncode == 0, done.stderr
        given = list(zip(map(json.loads, done.stdout.splitlines()), expected, strict=True))
        plain = [
            (answer["prediction"], row)
            for answer, row in given
            if not answer.keys() & {"turned", "cropped"}
        ]
        assert len(plain) > len(given) / 2
        for prediction, row in plain:
            assert [prediction[breed] for breed in FEW] == pytest.approx(row, abs=1e-4)
            assert next(iter(prediction)) == FEW[row.argmax()]


def test_the_commands_that_come_next_name_the_file(tmp_path):
    inside = convert_model.next_steps(ROOT / "sub" / "my.tflite").splitlines()
    commands = [line.partition(":")[2].strip() for line in inside]
    for command, takes in zip(
        commands, ("--model", "MODEL_FILE", "MODEL=", "MODEL="), strict=False
    ):
        words = shlex.split(command)
        if words[0] == "make":
            done = make("--dry-run", *words[1:], ENGINE="docker")
            assert "sub/my.tflite" in done.stdout and takes in done.stdout, done.stderr
    assert commands[3].startswith("docker buildx build ") and "MODEL=sub/my.tflite" in commands[3]
    assert commands[4] == "make deploy PARAMETERS=Model=sub/my.tflite"
    outside = convert_model.next_steps(tmp_path / "my.tflite")
    assert f"make serve MODEL={tmp_path}/my.tflite" in outside
    assert (
        f"cp {tmp_path}/my.tflite {ROOT}\n" in outside and "make image MODEL=my.tflite" in outside
    )


def test_show_says_that_a_backbone_has_no_head(small, monkeypatch, capsys):
    file = small.task.backbone
    assert exit_message(monkeypatch, convert_model, "--show", file) is None
    printed = capsys.readouterr().out
    assert "0 classes: it has no head" in printed and "calibration" in printed
    assert inspect_backbone(file).digest in printed


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x05\x06" + bytes(18)])
def test_show_refuses_other_files(tmp_path, monkeypatch, content):
    file = tmp_path / "other.tflite"
    file.write_bytes(content)
    message = exit_message(monkeypatch, convert_model, "--show", file)
    assert message.startswith(
        "convert_model.py: other.tflite is damaged, or was not made by convert_model.py"
    )


def test_missing_files_are_named(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "run training.py first" in exit_message(monkeypatch, convert_model)
    alone = tmp_path / small.model.name
    os.link(small.model, alone)
    assert f"there is no {alone.with_suffix('.npz')}" in exit_message(
        monkeypatch, convert_model, alone
    )


# --- The committed file ---------------------------------------------------------------------------


def test_the_committed_file_is_small_and_documented():
    facts = read_facts(COMMITTED)
    assert COMMITTED.stat().st_size <= 24e6
    assert facts["quantization"] == "int8" and len(facts["classes"]) == 10
    card = (ROOT / "MODEL_CARD.md").read_text()
    for kind in features.VIEW_KINDS:
        compared = facts["compared_with_keras"][kind]
        assert compared["keras"]["accuracy"] - compared["tflite"]["accuracy"] <= 0.003
        assert facts["test"][kind]["calibration_error"] < 0.02
        assert f"{facts['test'][kind]['accuracy']:.2%}".replace("%", " %") in card
    assert facts["model_sha256"] in card


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_committed_file_knows_real_dogs(real_data, runtime):
    """The accuracy on test photos is what the file states. The limits are lower, because the test
    uses only a few photos.
    """
    facts, split = read_facts(COMMITTED), Path(MIRROR, "official_split.csv")
    test = [row["image"] for row in csv.DictReader(split.open()) if row["split"] == "test"]
    test = [image for image in test if dataset.breed_name(image.split("/")[0]) in facts["classes"]]
    task = dataset.Task(real_data, facts["classes"], {})
    test = test[:: 24 if runtime == "ai_edge_litert" else 120]
    names = "probabilities", facts["unknown_rule"]["score"]
    views = [features.photo_view(task, image) for image in test]
    [rows] = answers([COMMITTED], views, recipe.SIZE, runtime, names)
    probabilities, scores = (np.array(column) for column in zip(*rows, strict=True))
    correct = (probabilities.argmax(axis=1) == task.labels(test)).mean()
    assert correct >= (0.92 if len(test) > 50 else 0.85)
    assert (scores >= facts["unknown_rule"]["threshold"]).mean() > 0.85
