"""Conversion: formats in both runtimes, fused RELUs, the gate, the facts inside the file, and the committed file.

TensorFlow lives in this process, so the serving runtimes run in others, as convert_model.py has it.
"""

import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import convert_model
import make_dataset
import training
from dog_breeds import dataset, features, recipe
from dog_breeds.facts import read_facts
from dog_breeds.tflite import load_input, predict_files

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "top_10_dog_breeds.tflite"
MIRROR = os.environ.get("STANFORD_DOGS_MIRROR", "")
FEW = ["maltese_dog", "pomeranian", "samoyed"]
SIZE = 75  # pixels: nearly the smallest that Xception takes, and fast
RUNTIMES = ["ai_edge_litert", *(["tflite_runtime"] if sys.version_info < (3, 12) and sys.platform == "linux" else [])]


def run(*words, cwd=ROOT):
    command = [sys.executable, ROOT / "convert_model.py", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def small(demo, tmp_path_factory) -> Path:
    """A model for three of the demo breeds at SIZE pixels, with its report and split."""
    folder = tmp_path_factory.mktemp("small")
    training.train_classifier(training.prepare_task(demo, FEW, size=SIZE), recipe.QUICK_GRID, folder)
    return training.find_best_model(folder)


@pytest.fixture(scope="module")
def model(small) -> keras.Model:
    return keras.models.load_model(small, compile=False)


@pytest.fixture(scope="module")
def pictures(small, demo) -> dict[str, list]:
    """The crop and the whole photo of training images, to calibrate with, and of test images."""
    task = dataset.Task(demo, FEW, dataset.read_split(small.with_suffix(".csv")), SIZE)
    test = [view(demo, image).picture for view in features.KINDS.values() for image in task.images("test")]
    return {"train": convert_model.calibration_pictures(task), "test": test}


@pytest.fixture(scope="module")
def files(model, pictures, tmp_path_factory) -> dict[str, Path]:
    """The model in every format, as bare flatbuffers; `unfused` is int8 as the converter leaves it."""
    folder, contents = tmp_path_factory.mktemp("files"), {}
    fuse = convert_model.fuse_relus

    def keep_unfused(content):
        contents["unfused"] = content
        return fuse(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_model, "fuse_relus", keep_unfused)
        for name in convert_model.FORMATS:
            contents[name] = convert_model.to_tflite(model, name, pictures["train"])
    for name, content in contents.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return {name: folder / f"{name}.tflite" for name in contents}


@pytest.fixture(scope="module")
def expected(model, pictures) -> tuple[np.ndarray, np.ndarray]:
    """Keras' own probabilities and similarities of the test pictures."""
    pixels = np.concatenate([load_input(picture, SIZE) for picture in pictures["test"]])
    probabilities, similarities = model.predict(pixels, verbose=0)
    return probabilities, similarities[:, 0]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "change"), [("float32", 1e-5), ("float16", 0.01), ("dynamic", 0.3), ("int8", 0.3)]
)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_format_answers_as_keras(files, pictures, expected, quantization, change, runtime):
    """At 75 px the backbone is far from what it was made for, and int8 coarser than at 299: the gate tests that."""
    if (quantization, runtime) == ("dynamic", "tflite_runtime"):
        with pytest.raises(RuntimeError, match=r"^tflite_runtime cannot run the converted file"):
            predict_files(files["dynamic"], pictures["test"][:1], runtime)
        return
    probabilities, similarities = predict_files(files[quantization], pictures["test"], runtime)
    assert probabilities.shape == (len(pictures["test"]), 3)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(probabilities - expected[0]).max() < change
    assert (probabilities.argmax(axis=1) == expected[0].argmax(axis=1)).mean() > 0.9
    assert np.abs(similarities - expected[1]).max() < {"float32": 1e-5, "float16": 1e-3}.get(quantization, 0.1)


def test_sizes_follow_the_formats(files):
    megabytes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
    assert megabytes["float32"] > 80 and megabytes["float16"] < 0.51 * megabytes["float32"]
    assert max(megabytes["int8"], megabytes["dynamic"]) < 24


def graph_of(file):
    """The flatbuffer's first graph, and the kind of each of its operators."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(file.read_bytes()))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    return graph, [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]


TENSORS = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
interpreter = Interpreter(
    sys.argv[1], experimental_preserve_all_tensors=True,
    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(sys.argv[2]))
interpreter.invoke()
details = {detail["index"]: detail["quantization"] for detail in interpreter.get_tensor_details()}
arrays = {}
for index in map(int, sys.argv[4:]):
    scale, zero = details[index]
    arrays[str(index)] = (interpreter.get_tensor(index).astype(np.float64) - zero) * scale
    arrays[f"step {index}"] = scale
np.savez(sys.argv[3], **arrays)
"""


def test_fused_relus_are_gone_and_are_the_relus_of_the_same_sums(files, pictures, tmp_path):
    (graph, after), (_, before) = graph_of(files["int8"]), graph_of(files["unfused"])
    assert before.count("RELU") == 11 and after.count("RELU") == 0
    assert after.count("ADD") == before.count("ADD") + 11
    adds = [operator for operator, kind in zip(graph.operators, after, strict=True) if kind == "ADD"]
    fused = [add for add in adds if add.builtinOptions.fusedActivationFunction]
    assert len(fused) == 11
    wanted = {index for add in fused for index in (*add.inputs, *add.outputs)}
    np.save(tmp_path / "pixels.npy", load_input(pictures["test"][0], SIZE))
    subprocess.run(
        [sys.executable, "-c", TENSORS, files["int8"], tmp_path / "pixels.npy", tmp_path / "tensors.npz"]
        + [str(index) for index in wanted],
        check=True,
    )
    tensors = np.load(tmp_path / "tensors.npz")
    for add in fused:
        a, b, output = (tensors[str(index)] for index in (*add.inputs, *add.outputs))
        step = tensors[f"step {add.outputs[0]}"]
        highest = output.max() if output.max() >= 254 * step else np.inf  # what lies above the range is cut off
        assert np.abs(output - np.clip(a + b, 0, highest)).max() <= step
        assert output.max() > 10 * step


def test_the_head_of_int8_stays_float(files):
    """Between the last QUANTIZE or DEQUANTIZE and the end there are only float operators."""
    _, names = graph_of(files["int8"])
    assert names.index("DEQUANTIZE") < names.index("MEAN") < names.index("FULLY_CONNECTED") < names.index("SOFTMAX")


def test_calm_half_leaves_wild_pictures_out(model, pictures, monkeypatch):
    """A picture with wild activations is not calibrated on; their height is that of the backbone's sums."""
    train = pictures["train"][:6]
    wild, load = train[2], load_input

    def load_wild(picture, size):
        return load(picture, size) * (1000 if picture == wild else 1)

    monkeypatch.setattr(convert_model, "load_input", load_wild)
    calm = convert_model.calm_half(model, train)
    assert len(calm) == 3 and wild not in calm and set(calm) < set(train)


def test_calibration_pictures_are_spread_over_the_breeds(demo):
    split = {f"n02000000-{breed}/{i}.jpg": "train" for breed in "abcdefghij" for i in range(100)}
    chosen = convert_model.calibration_pictures(dataset.Task(demo, list("abcdefghij"), split))
    assert len(chosen) == 100
    assert {path.parent.name for path, share in chosen if share == 1} == set("abcdefghij")
    assert {share for _, share in chosen} == {1.0, recipe.PHOTO_SHARE}


# --- the gate --------------------------------------------------------------------------------------------------------


def test_compare_measures_accuracy_agreement_and_change():
    keras = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]), np.array([5.0, 4.0, 3.0, 2.0])
    tflite = np.array([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]]), np.array([5.0, 1.0, 3.0, 0.0])
    result = convert_model.compare(keras, tflite, np.array([0, 1, 0, 0]), threshold=2.5)
    assert (result["keras"]["accuracy"], result["tflite"]["accuracy"]) == (0.75, 0.5)
    assert (result["keras"]["taken_as_known"], result["tflite"]["taken_as_known"]) == (0.75, 0.5)
    assert result["same_top_class"] == 0.75 and result["largest_change"] == pytest.approx(0.2)
    # Four pictures in bins of their own: the mean of |0.9 - 1|, |0.8 - 1|, |0.6 - 1| and |0.7 - 0|.
    assert result["keras"]["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4)


def test_a_file_that_loses_too_much_is_not_written(small, tmp_path):
    output = tmp_path / "model.tflite"
    output.write_bytes(b"the file of yesterday")
    # Less than nothing may be lost: no file can pass.
    result = run(small, "--output", output, "--quantization", "float16", "--max-loss", "-101")
    assert result.returncode == 1
    assert re.search(r"convert_model\.py: .* is not written: float16 loses \S+ points", result.stderr.splitlines()[-1])
    assert output.read_bytes() == b"the file of yesterday"
    assert list(tmp_path.iterdir()) == [output]


def test_without_a_choice_the_next_format_is_tried(small, files, tmp_path, monkeypatch):
    """int8, whose answers are spoilt here, is refused, and float32 is written instead."""
    output, predict, tried = tmp_path / "model.tflite", convert_model.predict_files, []

    def prepared(model, quantization, pictures):
        tried.append(quantization)
        return files[quantization].read_bytes()

    def spoilt(*arguments):
        probabilities, similarities = predict(*arguments)
        return np.roll(probabilities, tried[-1] == "int8", axis=1), similarities

    monkeypatch.setattr(convert_model, "to_tflite", prepared)
    monkeypatch.setattr(convert_model, "predict_files", spoilt)
    convert_model.convert(small, output)
    assert tried == ["int8", "float32"]
    assert read_facts(output)["quantization"] == "float32"
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


# --- facts -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(small, tmp_path_factory) -> tuple[Path, str]:
    """The file that the command makes of the small model, and what it printed."""
    output = tmp_path_factory.mktemp("converted") / "few.tflite"
    result = run(small, "--output", output, "--quantization", "float16")
    assert result.returncode == 0, result.stderr
    return output, result.stdout


def test_the_file_carries_its_facts(converted, small):
    output, printed = converted
    report = training.read_report(small)
    with zipfile.ZipFile(output) as archive:
        assert archive.read("labels.txt").decode().splitlines() == FEW
        facts = json.loads(archive.read("metadata.json"))
        model_bytes = output.read_bytes()[: min(entry.header_offset for entry in archive.infolist())]
    assert facts["classes"] == FEW
    assert (facts["input"]["height"], facts["input"]["width"], facts["input"]["range"]) == (SIZE, SIZE, [0, 255])
    assert facts["photo_share"] == recipe.PHOTO_SHARE
    assert facts["temperature"] == report["temperature"]
    assert facts["unknown_rule"] == report["unknown_rule"]
    assert facts["training_data"]["images"] == report["images"] and "optimistic" in facts["training_data"]["note"]
    for path in (small, small.with_suffix(".json"), small.with_suffix(".csv")):
        assert facts["provenance"]["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["model_sha256"] == hashlib.sha256(model_bytes).hexdigest()
    for name, key in (("crops", "test_accuracy"), ("whole_photos", "test_accuracy_whole_photos")):
        assert facts["accuracy"][name]["keras"]["accuracy"] == pytest.approx(report[key])
        assert f"{facts['accuracy'][name]['tflite']['accuracy']:.2%}" in printed
        assert facts["accuracy"][name]["pictures"] == report["images"]["test"]


def test_show_prints_the_facts(converted):
    result = run("--show", converted[0])
    assert result.returncode == 0
    for words in ("float16", "3 classes: maltese_dog, pomeranian, samoyed", "75 x 75 RGB", "similarity >=", "sha256"):
        assert words in result.stdout


def test_the_handler_takes_the_file(converted, demo):
    photo = sorted((demo / "raw" / "Images").glob("*-Pomeranian/*.jpg"))[0]
    event = json.dumps({"image": base64.b64encode(photo.read_bytes()).decode()})
    code = "import json, sys; from lambda_function import *; lambda_handler(json.load(sys.stdin))"
    env = {**os.environ, "MODEL_FILE": str(converted[0])}
    for runtime in RUNTIMES:
        env["DOG_BREEDS_RUNTIME"] = runtime
        result = subprocess.run(
            [sys.executable, "-c", code], input=event, cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert json.loads(result.stdout.splitlines()[-1])["top_class"] == "pomeranian", result.stderr


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x05\x06" + bytes(18)])
def test_show_refuses_other_files(tmp_path, content):
    file = tmp_path / "other.tflite"
    file.write_bytes(content)
    result = run("--show", file)
    assert result.returncode == 1
    assert result.stderr.startswith("convert_model.py: other.tflite is damaged, or was not made by convert_model.py")
    assert len(result.stderr.splitlines()) == 1


def test_missing_files_are_named(small, tmp_path):
    result = run(cwd=tmp_path)
    assert result.returncode == 1 and "run training.py first" in result.stderr.splitlines()[-1]
    alone = tmp_path / small.name
    os.link(small, alone)
    result = run(alone, cwd=tmp_path)
    assert result.returncode == 1
    assert f"there is no {alone.with_suffix('.json')}" in result.stderr.splitlines()[-1]


# --- the committed file ----------------------------------------------------------------------------------------------


def test_the_committed_file_is_small_and_documented():
    facts = read_facts(COMMITTED)
    assert COMMITTED.stat().st_size <= 24e6
    assert facts["quantization"] == "int8" and len(facts["classes"]) == 10
    card = (ROOT / "MODEL_CARD.md").read_text()
    for result in facts["accuracy"].values():
        assert result["keras"]["accuracy"] - result["tflite"]["accuracy"] <= 0.003
        assert result["tflite"]["calibration_error"] < 0.02
        assert f"{result['tflite']['accuracy']:.2%}".replace("%", " %") in card
    assert facts["model_sha256"] in card


@pytest.fixture(scope="module")
def real_data(tmp_path_factory) -> Path:
    """The mirror's pictures."""
    if not Path(MIRROR, "images.tar").is_file():
        pytest.skip("STANFORD_DOGS_MIRROR names no folder with images.tar and annotation.tar")
    data_dir = tmp_path_factory.mktemp("real")
    make_dataset.make_raw(data_dir, MIRROR)
    return data_dir


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_committed_file_knows_real_dogs(real_data, runtime):
    """On the whole photos of the test part: as accurate as it says, within what so few pictures can tell."""
    facts, split = read_facts(COMMITTED), Path(MIRROR, "official_split.csv")
    test = [row["image"] for row in csv.DictReader(split.open()) if row["split"] == "test"]
    test = [image for image in test if dataset.breed_name(image.split("/")[0]) in facts["classes"]]
    test = test[:: 12 if runtime == "ai_edge_litert" else 60]
    task = dataset.Task(real_data, facts["classes"], dict.fromkeys(test, "test"))
    pictures = [features.photo_view(real_data, image).picture for image in task.images("test")]
    probabilities, similarities = predict_files(COMMITTED, pictures, runtime)
    labels = task.labels(task.images("test"))
    correct = (probabilities.argmax(axis=1) == labels).mean()
    assert correct >= (0.92 if len(test) > 50 else 0.85)
    assert (similarities >= facts["unknown_rule"]["threshold"]).mean() > 0.85
