"""Convert the trained Keras model to one small, fast, proven TensorFlow Lite file.

Reads     the best xception_v1_*.h5 with its report and split, and the pictures they name.
Writes    top_10_dog_breeds.tflite: the network, and appended as a zip archive its labels.txt and metadata.json.
Commands  python convert_model.py                          # the fastest format that passes the accuracy gate: int8
          python convert_model.py --quantization float32   # or float16, dynamic, int8
          python convert_model.py --show top_10_dog_breeds.tflite
The file is run in the serving runtime, in a process of its own, on every test picture and compared with Keras. If it
loses more than --max-loss points of accuracy it is not written. Takes a minute or two for ten breeds on 2 cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # like flatbuffer_utils free of the runtime
from ai_edge_litert.tools import flatbuffer_utils

from dog_breeds.console import quiet, written_whole
from dog_breeds.dataset import Task, read_split
from dog_breeds.facts import append_facts, read_facts
from dog_breeds.features import KINDS, keras, plain_set, tf
from dog_breeds.metrics import accuracy, expected_calibration_error
from dog_breeds.tflite import Picture, load_input, predict_files
from training import find_best_model, read_report

OUTPUT = Path("top_10_dog_breeds.tflite")
FORMATS = ("float32", "float16", "dynamic", "int8")
FASTEST_FIRST = ("int8", "float32")
CALIBRATION_IMAGES = 50  # of the train split, each as crop and as whole photo; the calmer half is used

Predictions = tuple[np.ndarray, np.ndarray]  # probabilities float32 [n, N], similarities [n]


# --- Conversion ------------------------------------------------------------------------------------------------------


def to_tflite(model: keras.Model, quantization: str, pictures: Sequence[Picture] = ()) -> bytes:
    """Return the model as a TensorFlow Lite flatbuffer; int8 needs `pictures`, to set the ranges of activations."""
    converter = tf.lite.TFLiteConverter.from_keras_model(serving_model(model))
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization != "int8":
        return converter.convert()

    size = model.input.shape[1]
    calm = calm_half(model, pictures)
    converter.representative_dataset = lambda: ([load_input(picture, size)] for picture in calm)
    # The head stays float: it is tiny, and a logit in steps of 1/256 of its range would spoil the probabilities.
    head = ["MEAN", "FULLY_CONNECTED", "SOFTMAX", "SQUARE", "SUM", "MINIMUM", "RSQRT", "MUL", "RESHAPE", "REDUCE_MAX"]
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=head)
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=options)
    return fuse_relus(debugger.get_nondebug_quantized_model())


def serving_model(model: keras.Model) -> keras.Model:
    """Return the model for one picture at a time: pixels [1, S, S, 3] -> probabilities [1, N], similarity [1, 1]."""
    pixels = keras.Input(batch_shape=(1, *model.input.shape[1:]))
    return keras.Model(pixels, model(pixels))


def calibration_pictures(task: Task) -> list[Picture]:
    """Return the crops and the whole photos of CALIBRATION_IMAGES of the training images, evenly chosen."""
    images = task.images("train")
    some = images[:: -(-len(images) // CALIBRATION_IMAGES)]
    return [view(task.data_dir, image).picture for view in KINDS.values() for image in some]


def calm_half(model: keras.Model, pictures: Sequence[Picture]) -> list[Picture]:
    """Return the half of the pictures whose largest activation is lowest.

    In one photo of some thirty a single channel of block 5 rises far above what all others reach, and every block after
    it follows. The ranges of int8 activations span all that the calibration pictures show: with one such photo among
    them, their 256 steps are coarser for all the others, and the answers further from Keras'. The wild photos, cut off
    at the ranges, keep their breed. benchmarks/model_file.py compares the two.
    """
    backbone, scale = model.get_layer("xception"), model.get_layer("scale")
    sums = [layer.output for layer in backbone.layers if isinstance(layer, keras.layers.Add)]  # one a block
    blocks = keras.Model(backbone.input, sums)
    inputs = (scale(load_input(picture, model.input.shape[1])) for picture in pictures)
    peaks = [max(np.abs(output).max() for output in blocks.predict_on_batch(x)) for x in inputs]
    return [pictures[i] for i in np.argsort(peaks)[: len(pictures) // 2]]


def fuse_relus(flatbuffer: bytes) -> bytes:
    """Replace each RELU of a sum by a second ADD of the same two tensors that applies the RELU itself.

    XNNPACK has no RELU for int8: those that begin blocks 3 to 13 would cut the network into 13 pieces, and slow it down
    (benchmarks/model_file.py says how much). The block's other branch still needs the sum as it is.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(flatbuffer))
    operators = model.subgraphs[0].operators
    kinds = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in operators]
    adds = {o.outputs[0]: o for o, kind in zip(operators, kinds, strict=True) if kind == schema.BuiltinOperator.ADD}
    for operator, kind in zip(operators, kinds, strict=True):
        if kind == schema.BuiltinOperator.RELU and operator.inputs[0] in adds:
            add = adds[operator.inputs[0]]
            operator.opcodeIndex, operator.inputs = add.opcodeIndex, add.inputs
            operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
            operator.builtinOptions = schema.AddOptionsT()
            operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


# --- The gate --------------------------------------------------------------------------------------------------------


def keras_predict(model: keras.Model, features: np.ndarray) -> Predictions:
    """Return Keras' own predictions for the backbone's features [n, 2048]."""
    head = keras.Model(model.get_layer("features").output, model.output)
    probabilities, similarities = head.predict(features, verbose=0)
    return probabilities, similarities[:, 0]


def compare(keras: Predictions, tflite: Predictions, labels: np.ndarray, threshold: float) -> dict:
    """Return accuracy, calibration error and share taken as known, 0..1, of both, and how far they differ."""
    result = {
        "pictures": len(labels),
        "same_top_class": float((keras[0].argmax(axis=1) == tflite[0].argmax(axis=1)).mean()),
        "largest_change": float(np.abs(keras[0] - tflite[0]).max()),
    }
    for name, (probabilities, similarities) in (("keras", keras), ("tflite", tflite)):
        logits = np.log(np.maximum(probabilities, 1e-30))
        result[name] = {
            "accuracy": accuracy(logits, labels),
            "calibration_error": expected_calibration_error(logits, labels),
            "taken_as_known": float((similarities >= threshold).mean()),
        }
    return result


def describe_results(results: dict) -> str:
    """Return a line for the crops and one for the whole photos."""
    line = (
        "{name}: {pictures} test pictures, accuracy {keras[accuracy]:.2%} -> {tflite[accuracy]:.2%}, calibration error "
        "{keras[calibration_error]:.2%} -> {tflite[calibration_error]:.2%}, taken as known "
        "{keras[taken_as_known]:.1%} -> {tflite[taken_as_known]:.1%}, same top class {same_top_class:.2%}, "
        "largest change of a probability {largest_change:.3f}"
    )
    return "\n".join(line.format(name=name.replace("_", " "), **result) for name, result in results.items())


# --- Facts about the file --------------------------------------------------------------------------------------------


def collect_facts(model_path: Path, report: dict, quantization: str, results: dict) -> dict:
    """Return what the file shall say about itself: metadata.json."""
    size = report["size"]
    return {
        "format_version": 1,
        "classes": report["classes"],
        "input": {"height": size, "width": size, "channels": 3, "dtype": "float32", "range": [0, 255], "color": "RGB"},
        "photo_share": report["photo_share"],  # the central part of a photo that the model is to see
        "quantization": quantization,
        "temperature": report["temperature"],  # already in the weights
        "unknown_rule": report["unknown_rule"],
        "accuracy": results,
        "training_data": {"dataset": "Stanford Dogs", "images": report["images"], "note": report["note"]},
        "provenance": {
            "sha256": {path.name: sha256(path.read_bytes()).hexdigest() for path in source_files(model_path)},
            "versions": report["versions"] | {name: version(name) for name in ("tensorflow", "ai-edge-litert")},
            "converted": time.strftime("%Y-%m-%d"),
        },
    }


def source_files(model_path: Path) -> list[Path]:
    """Return the three files that training.py wrote: the model, its report and its split."""
    return [model_path.with_suffix(suffix) for suffix in (".h5", ".json", ".csv")]


def show_facts(file: Path) -> None:
    """Print the facts inside a .tflite file."""
    facts = read_facts(file)
    model, unknown = facts["input"], facts["unknown_rule"]
    print(f"{file}: {facts['quantization']}, {file.stat().st_size / 1e6:.1f} MB")
    print(f"{len(facts['classes'])} breeds: {', '.join(facts['classes'])}")
    print("input: {width} x {height} {color}, {dtype} {range[0]}..{range[1]}".format(**model), end=", ")
    print(f"the central {facts['photo_share']:.1%} of a photo's sides")
    print(f"known breed: {unknown['score']} >= {unknown['threshold']:.3f}, at temperature {facts['temperature']:.3f}")
    print(describe_results(facts["accuracy"]))
    for topic in ("training_data", "provenance"):
        print(f"{topic.replace('_', ' ')}: {json.dumps(facts[topic], indent=1)}")


# --- Steps -----------------------------------------------------------------------------------------------------------


def convert(
    model_path: Path, output: Path, quantization: str | None = None, max_loss: float = 0.3, data_dir: Path | None = None
) -> None:
    """Convert a model trained by training.py, prove the file and write it.

    Without `quantization`, the fastest format that loses at most `max_loss` points on crops and on whole photos.
    Raises RuntimeError, and leaves `output` as it was, if none does.
    """
    for path in source_files(model_path):
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}; run training.py, which writes a model, its report and its split"
            )
    report, split = read_report(model_path), read_split(model_path.with_suffix(".csv"))
    task = Task(data_dir or Path(report["data_dir"]), report["classes"], split, report["size"], report["seed"])
    model = keras.models.load_model(model_path, compile=False)
    test = {kind: [view(task.data_dir, image).picture for image in task.images("test")] for kind, view in KINDS.items()}
    labels = task.labels(task.images("test"))
    before = {kind: keras_predict(model, pictures.features) for kind, pictures in plain_set(task, "test").items()}
    calibration, threshold = calibration_pictures(task), report["unknown_rule"]["threshold"]

    for candidate in [quantization] if quantization else FASTEST_FIRST:
        print(f"converting to {candidate}", flush=True)
        with quiet():  # the converter describes every variable
            content = to_tflite(model, candidate, calibration)
        with TemporaryDirectory() as folder:
            file = Path(folder) / output.name
            file.write_bytes(content)
            after = {kind: predict_files(file, test[kind]) for kind in KINDS}
            results = {kind: compare(before[kind], after[kind], labels, threshold) for kind in KINDS}
            print(describe_results(results), flush=True)
            loss = 100 * max(result["keras"]["accuracy"] - result["tflite"]["accuracy"] for result in results.values())
            if loss <= max_loss:
                append_facts(file, collect_facts(model_path, report, candidate, results))
                with written_whole(output) as part:
                    part.write_bytes(file.read_bytes())
                return
        print(f"{candidate} loses {loss:.2f} points of accuracy, more than --max-loss {max_loss:g}", flush=True)
    raise RuntimeError(
        f"{output} is not written: {candidate} loses {loss:.2f} points of accuracy, --max-loss is {max_loss:g}"
    )


def main() -> None:
    """Parse the arguments; convert or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL.h5", help="default: the best one in this folder")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    parser.add_argument("--quantization", choices=FORMATS, help="default: the fastest that passes")
    parser.add_argument("--max-loss", type=float, default=0.3, metavar="POINTS", help="of accuracy (default: 0.3)")
    parser.add_argument("--data-dir", type=Path, help="default: the one that the model was trained with")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the facts inside a .tflite file")
    args = parser.parse_args()
    try:
        if args.show:
            show_facts(args.show)
            return
        model = args.model or find_best_model()
        print(f"converting {model}", flush=True)
        convert(model, args.output, args.quantization, args.max_loss, args.data_dir)
        print(f"wrote {args.output}, {args.output.stat().st_size / 1e6:.1f} MB")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"convert_model.py: {error}")
    except KeyboardInterrupt:
        sys.exit("convert_model.py: stopped; nothing is written")


if __name__ == "__main__":
    main()
