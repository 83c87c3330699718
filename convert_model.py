"""Convert the trained Keras model to one small, fast, proven TensorFlow Lite file.

Reads     the best xception_v1_*.h5 with its report and split, and the pictures they name.
Writes    top_10_dog_breeds.tflite: the network, and appended as a zip archive its labels.txt and metadata.json.
Commands  python convert_model.py                          # the fastest format that passes the accuracy gate: int8
          python convert_model.py --quantization float32   # or float16, dynamic, int8
          python convert_model.py --show top_10_dog_breeds.tflite
The file is run in the serving runtime, in a process of its own, on every test picture and compared with Keras. If it
loses more than --max-loss points of accuracy it is not written. Takes some 5 minutes for ten breeds on 2 cores.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_selection import read_photo, resize
from make_dataset import progress, quiet

if TYPE_CHECKING:
    import keras

# TensorFlow, and training.py which needs it, are imported by the functions that use them: TensorFlow and the serving
# runtime crash in one process, and the runtime's process imports this file too.

OUTPUT = Path("top_10_dog_breeds.tflite")
FORMATS = ("float32", "float16", "dynamic", "int8")
FASTEST_FIRST = ("int8", "float32")
CALIBRATION_PICTURES = 100
RUNTIMES = ("ai_edge_litert", "tflite_runtime")  # in the order of preference

Picture = tuple[Path, float]  # a file, and the central share of its sides that the model is to see

# --- Conversion ------------------------------------------------------------------------------------------------------


def serving_model(model: "keras.Model") -> "keras.Model":
    """Return the model with the outputs that the service needs, for one picture at a time.

    Pixels float32 [1, S, S, 3] -> probabilities [1, N] and energy [1, 1] = log(sum(exp(logits))).
    """
    import keras

    logits = model.get_layer("logits").output
    # For each class the same number; as operators far fewer than a numerically safe log(sum(exp)).
    energies = logits - keras.ops.log_softmax(logits)
    energy = keras.ops.max(energies, axis=1, keepdims=True)
    outputs = keras.Model(model.input, [model.get_layer("probabilities").output, energy])
    pixels = keras.Input(batch_shape=(1, *model.input.shape[1:]))
    probabilities, energy = outputs(pixels)
    return keras.Model(pixels, {"probabilities": probabilities, "energy": energy})


def to_tflite(model: "keras.Model", quantization: str, pictures: Sequence[Picture]) -> bytes:
    """Return the model as a TensorFlow Lite flatbuffer; `pictures` calibrate the ranges of int8 activations."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(serving_model(model))
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization != "int8":
        return converter.convert()

    def calibration_set() -> Iterator[list[np.ndarray]]:
        size = model.input.shape[1]
        for picture in pictures:
            yield [load_input(picture, size)]

    converter.representative_dataset = calibration_set
    # The head stays float: it is tiny, and a logit in steps of 1/256 of its range would spoil the probabilities.
    head = ["MEAN", "FULLY_CONNECTED", "LOG_SOFTMAX", "SUB", "REDUCE_MAX", "SOFTMAX"]
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=head)
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=calibration_set, debug_options=options
    )
    return debugger.get_nondebug_quantized_model()


# --- The serving runtime, in a process of its own --------------------------------------------------------------------


def load_input(picture: Picture, size: int) -> np.ndarray:
    """Return a picture as the model takes it: float32 RGB 0..255, [1, size, size, 3]."""
    path, share = picture
    return np.asarray(resize(read_photo(path, size), size, share), np.float32)[None]


def start_interpreter(file: Path, runtime: str, threads: int) -> None:
    """Load a .tflite file for `predict_file`, once in a process."""
    global interpreter
    interpreter = importlib.import_module(f"{runtime}.interpreter").Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()


def predict_file(picture: Picture) -> tuple[np.ndarray, float]:
    """Return probabilities float32 [N] and energy of a picture."""
    pixels = interpreter.get_input_details()[0]
    interpreter.set_tensor(pixels["index"], load_input(picture, pixels["shape"][1]))
    interpreter.invoke()
    outputs = [interpreter.get_tensor(output["index"])[0] for output in interpreter.get_output_details()]
    energy, probabilities = sorted(outputs, key=len)
    return probabilities, float(energy[0])


def predict_files(
    file: Path, pictures: Sequence[Picture], runtime: str = RUNTIMES[0], threads: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Run a .tflite file on pictures in the serving runtime; return probabilities [n, N] and energies [n].

    By default it uses as many threads as the process may use CPUs.
    """
    threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    outputs = []
    new_process = multiprocessing.get_context("spawn")
    label = f"{runtime} on {threads} threads"
    try:
        with (
            ProcessPoolExecutor(1, new_process, start_interpreter, (file, runtime, threads)) as pool,
            progress(label, len(pictures), unit="pictures", scale=1) as show,
        ):
            for output in pool.map(predict_file, pictures):
                outputs.append(output)
                show(len(outputs))
    except BrokenProcessPool:
        raise RuntimeError(f"{runtime} cannot run the converted file; its message stands above") from None
    probabilities, energies = zip(*outputs, strict=True)
    return np.array(probabilities), np.array(energies)


# --- The gate --------------------------------------------------------------------------------------------------------


def keras_predict(model: "keras.Model", features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Keras' own probabilities [n, N] and energies [n] for the backbone's features [n, 2048]."""
    import keras

    from training import energy

    outputs = [model.get_layer("probabilities").output, model.get_layer("logits").output]
    head = keras.Model(model.get_layer("features").output, outputs)
    probabilities, logits = head.predict(features, verbose=0)
    return probabilities, energy(logits)


def compare(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict:
    """Return accuracy and calibration error of two sets of probabilities [n, N], 0..1, and how far they differ."""
    from training import accuracy, expected_calibration_error

    logits = {name: np.log(np.maximum(p, 1e-30)) for name, p in (("keras", before), ("tflite", after))}
    return {
        "pictures": len(labels),
        "accuracy": {name: accuracy(z, labels) for name, z in logits.items()},
        "calibration_error": {name: expected_calibration_error(z, labels) for name, z in logits.items()},
        "same_top_class": float((before.argmax(axis=1) == after.argmax(axis=1)).mean()),
        "largest_change": float(np.abs(after - before).max()),
    }


def lost_points(result: dict) -> float:
    """Return how many percentage points of accuracy the conversion costs."""
    return 100 * (result["accuracy"]["keras"] - result["accuracy"]["tflite"])


# --- Facts inside the file -------------------------------------------------------------------------------------------


def append_facts(file: Path, metadata: dict) -> None:
    """Append labels.txt and metadata.json to a .tflite as a zip archive, as TensorFlow Lite's own metadata does it."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{label}\n" for label in metadata["classes"]))
        archive.writestr("metadata.json", json.dumps(metadata, indent=1) + "\n")


def read_facts(file: Path) -> dict:
    """Return the metadata of a .tflite file; ValueError if it carries none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("metadata.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{file} carries no facts ({error}); make it with convert_model.py") from None


def collect_facts(model_path: Path, report: dict, quantization: str, results: dict) -> dict:
    """Return what the file shall say about itself: metadata.json."""
    sources = [model_path, model_path.with_suffix(".json"), model_path.with_suffix(".csv")]
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
        "training_data": {key: report.get(key) for key in ("images", "note")} | {"dataset": "Stanford Dogs"},
        "provenance": {
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources},
            "versions": report["versions"] | {name: version(name) for name in ("tensorflow", "ai-edge-litert")},
            "converted": time.strftime("%Y-%m-%d"),
        },
    }


# --- Steps -----------------------------------------------------------------------------------------------------------


def convert(
    model_path: Path, output: Path, quantization: str | None = None, max_loss: float = 0.3, data_dir: Path | None = None
) -> dict:
    """Convert a model trained by training.py, prove the file and write it; return its metadata.

    Without `quantization`, the fastest format that loses at most `max_loss` points on crops and on whole photos.
    Raises RuntimeError, and leaves `output` as it was, if none does.
    """
    import keras

    from training import crop_view, in_split, photo_view, plain_set, read_report, read_split

    report = read_report(model_path)
    data_dir = data_dir or Path(report["data_dir"])
    split = read_split(model_path.with_suffix(".csv"))
    train, test = in_split(split, "train"), in_split(split, "test")
    model = keras.models.load_model(model_path, compile=False)
    before = {}
    for name, whole_photos in (("crops", False), ("whole_photos", True)):
        examples = plain_set(data_dir, test, report["classes"], whole_photos, report["size"])
        before[name] = keras_predict(model, examples.features)[0]
    pictures = [view(data_dir, image)[:2] for view in (crop_view, photo_view) for image in test]
    calibration = [photo_view(data_dir, image)[:2] for image in train[:: -(-len(train) // CALIBRATION_PICTURES)]]

    part = output.with_name(output.name + ".part")
    for candidate in [quantization] if quantization else FASTEST_FIRST:
        print(f"converting to {candidate}", flush=True)
        with quiet():  # the converter describes every variable
            content = to_tflite(model, candidate, calibration)
        part.write_bytes(content)
        after = predict_files(part, pictures)[0].reshape(2, len(test), -1)
        results = {name: compare(before[name], p, examples.labels) for name, p in zip(before, after, strict=True)}
        print_results(results)
        loss = max(map(lost_points, results.values()))
        if loss <= max_loss:
            facts = collect_facts(model_path, report, candidate, results)
            append_facts(part, facts)
            os.replace(part, output)
            return facts
        print(f"{candidate} loses {loss:.2f} points of accuracy, more than the {max_loss:g} allowed", flush=True)
        part.unlink()
    raise RuntimeError(
        f"{candidate} loses {loss:.2f} points of accuracy, more than --max-loss {max_loss:g}; not written"
    )


def print_results(results: dict) -> None:
    """Print what the comparison with Keras says."""
    for name, result in results.items():
        accuracy, error = result["accuracy"], result["calibration_error"]
        print(
            f"{name.replace('_', ' ')}: accuracy {accuracy['keras']:.2%} -> {accuracy['tflite']:.2%} of "
            f"{result['pictures']} pictures, calibration error {error['keras']:.2%} -> {error['tflite']:.2%}, "
            f"same top class {result['same_top_class']:.2%}, largest change of a probability "
            f"{result['largest_change']:.3f}",
            flush=True,
        )


def main() -> None:
    """Parse the arguments, convert or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL.h5", help="default: the best one in this folder")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    parser.add_argument("--quantization", choices=FORMATS, help="default: the fastest that passes")
    parser.add_argument("--max-loss", type=float, default=0.3, metavar="POINTS", help="of accuracy (default: 0.3)")
    parser.add_argument("--data-dir", type=Path, help="default: the one that the model was trained with")
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="print the facts inside a .tflite file, convert nothing"
    )
    args = parser.parse_args()
    try:
        if args.show:
            print(json.dumps(read_facts(args.show), indent=1))
            return
        from training import find_best_model

        convert(args.model or find_best_model(), args.output, args.quantization, args.max_loss, args.data_dir)
        print(f"wrote {args.output}, {args.output.stat().st_size / 1e6:.1f} MB")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"convert_model.py: {error}")


if __name__ == "__main__":
    main()
