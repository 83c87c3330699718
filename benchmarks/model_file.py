"""Measure size, speed and accuracy of the model file in every format and both serving runtimes.

Reads     a model that training.py made, its report and split, and the images that they name.
Example

    python benchmarks/model_file.py --model MODEL.h5 --json model_file.json    # about 20 minutes
    python benchmarks/model_file.py --model MODEL.h5 --only speed    # or accuracy, start

Time      About 20 minutes.
Expect    One figure a line: megabytes; milliseconds of an inference at one and two threads;
          accuracy, calibration, AUROC of the unknown-breed rule, and the loss against Keras; time
          to the first answer of a process with the packages of the image. The milliseconds are also
          those of the original's setting (150 px, float32, tflite-runtime) and of the same network
          in ONNX Runtime, float32 and int8.

The script makes two environments in a temporary folder: one with ONNX Runtime, one with the
packages of requirements-lambda.txt."""

import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import handler
import numpy as np
from common import ROOT, Figure, command_line, report, with_units

import convert_model
from data_selection import crop_breeds
from dog_breeds.data.dataset import Task, breed_name
from dog_breeds.learning.features import VIEW_KINDS, calibration_views, load_pixels
from dog_breeds.learning.metrics import auroc
from dog_breeds.learning.saved_models import read_head, read_report
from dog_breeds.learning.tflite import join_head
from dog_breeds.serving.facts import append_facts
from dog_breeds.workers import call_in_new_process, map_in_processes
from training import unknown_photos

ONNX_PACKAGES = ("onnxruntime==1.23.2", "onnx==1.23.2", "tf2onnx==1.17.0", "sympy==1.14.0")
# In each round every file gets a new process, so that noise meets all of them
ROUNDS, CALLS, WARM_UP = 5, 10, 3
THREADS = (1, 2)
# The plain form of TensorFlow's converter: ranges of all calibration images, RELUs not fused
PLAIN = "plain_int8"
FILES = (*convert_model.FORMATS, PLAIN)
UNKNOWN_PHOTOS = 300  # photos of breeds that the model does not know

TIMER = """
import importlib, sys, time
import numpy as np
file, runtime, threads, size, warm_up, calls = *sys.argv[1:3], *map(int, sys.argv[3:])
pixels = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
if runtime == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    inputs = {session.get_inputs()[0].name: pixels}
    run = lambda: session.run(None, inputs)
else:
    module = importlib.import_module(runtime + ".interpreter")
    interpreter = module.Interpreter(file, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    run = interpreter.invoke
for call in range(warm_up + calls):
    start = time.perf_counter()
    run()
    if call >= warm_up:
        print(1000 * (time.perf_counter() - start))
"""

TO_ONNX = """
import runpy, sys
packages, source, target = sys.argv[1:]
sys.path.append(packages)  # behind TensorFlow and its own versions of what both need
sys.argv = ["tf2onnx.convert", "--tflite", source, "--output", target, "--opset", "17"]
runpy.run_module("tf2onnx.convert", run_name="__main__")
"""

ONNX_INT8 = """
import sys
import numpy as np
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
source, images, target = sys.argv[1:]
quant_pre_process(source, target, skip_symbolic_shape=True)
name = InferenceSession(target).get_inputs()[0].name
class Images(CalibrationDataReader):
    rows = iter(np.load(images))
    def get_next(self):
        return {name: row[None] for row in [next(self.rows, None)] if row is not None} or None
quantize_static(
    target, target, Images(), per_channel=True,
    weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    quant_format=QuantFormat.QDQ, calibrate_method=CalibrationMethod.MinMax,
)
"""


# --- files ----------------------------------------------------------------------------------------


def make_files(model_path: Path, folder: Path) -> None:
    """Write the model in every format, without facts and checks, and the pixels of its calibration
    images."""
    task = convert_model.task_of(model_path)
    for quantization in convert_model.FORMATS:
        content = convert_model.to_tflite(task, model_path, quantization, folder)
        (folder / f"{quantization}.tflite").write_bytes(content)
    plain = folder / "xception_plain_int8.tflite"
    call_in_process(write_plain_backbone, task, plain)
    content = join_head(plain.read_bytes(), *read_head(model_path))
    (folder / f"{PLAIN}.tflite").write_bytes(content)
    call_in_process(handler.original_model, "150", str(folder / "original_150.tflite"))
    np.save(
        folder / "pixels.npy",
        [np.float32(load_pixels(view, task.size)) for view in calibration_views(task)],
    )
    served = folder / "served.tflite"
    served.write_bytes((folder / "int8.tflite").read_bytes())
    append_facts(
        served, convert_model.collect_facts(model_path, read_report(model_path), "int8", {})
    )
    handler.knowing_all(served, served)


def write_plain_backbone(task: Task, path: Path) -> None:
    """Write the int8 backbone in the plain form of TensorFlow's converter."""
    from dog_breeds.learning import xception

    with mock.patch.multiple(xception, calm_half=lambda _, views: views, fuse_relus=id):
        xception.write_backbone(task.weights, task.size, calibration_views(task), path)


def call_in_process(function: Callable, *arguments: object) -> None:
    """Call a function that loads TensorFlow, in a separate process."""
    list(map_in_processes(function, [arguments]))


def make_environment(folder: Path, *packages: str) -> Path:
    """Return the Python of a new environment with these packages, or those of `-r FILE`."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True
    )
    return python


def make_onnx_files(python: Path, folder: Path) -> None:
    """Write the float32 file's network as ONNX: float32, and int8 (static, per channel, by minimum
    and maximum)."""
    source, target = folder / "float32.tflite", folder / "float32.onnx"
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-c", TO_ONNX, packages, source, target], check=True, capture_output=True
    )
    command = [python, "-c", ONNX_INT8, target, folder / "pixels.npy", folder / "int8.onnx"]
    subprocess.run(command, check=True, capture_output=True)


# --- speed ----------------------------------------------------------------------------------------


def measure_speed(folder: Path, onnx_python: Path, size: int) -> Iterator[Figure]:
    """Yield the size of each file, and the median milliseconds of an inference."""
    files = [(name, folder / f"{name}.tflite") for name in FILES]
    yield from ((f"size_{name}", file.stat().st_size / 1e6, "MB") for name, file in files)
    runs = [(f"{name}_ai_edge_litert", file, "ai_edge_litert", size) for name, file in files]
    runs += [(f"{name}_tflite_runtime", file, "tflite_runtime", size) for name, file in files]
    runs += [
        ("original_150_px_tflite_runtime", folder / "original_150.tflite", "tflite_runtime", 150)
    ]
    runs += [
        (f"{name}_onnxruntime", folder / f"{name}.onnx", "onnxruntime", size)
        for name in ("float32", "int8")
    ]
    times = {}
    for _ in range(ROUNDS):
        for threads in THREADS:
            for name, file, runtime, pixels in runs:
                python = onnx_python if runtime == "onnxruntime" else sys.executable
                command = [python, "-c", TIMER, file, runtime, threads, pixels, WARM_UP, CALLS]
                done = subprocess.run(
                    [str(word) for word in command], capture_output=True, text=True
                )
                if done.returncode == 0:
                    times.setdefault(f"{name}_{threads}_threads", []).extend(
                        map(float, done.stdout.split())
                    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    yield from ((name, milliseconds, "ms") for name, milliseconds in medians.items())
    for name, *_ in runs:
        if f"{name}_1_threads" not in medians:
            print(f"# {name}: this runtime cannot run this file")
    for threads in THREADS:
        ours = medians[f"int8_ai_edge_litert_{threads}_threads"]
        for peer in (
            "float32_ai_edge_litert",
            f"{PLAIN}_ai_edge_litert",
            "int8_onnxruntime",
            "original_150_px_tflite_runtime",
        ):
            yield (
                f"int8_speedup_over_{peer}_{threads}_threads",
                medians[f"{peer}_{threads}_threads"] / ours,
                "x",
            )


# --- accuracy -------------------------------------------------------------------------------------


def measure_accuracy(model_path: Path, folder: Path, formats: tuple[str, ...]) -> Iterator[Figure]:
    """Yield the figures of every format on test images and on unknown breeds, and the loss against
    Keras."""
    report, task = read_report(model_path), convert_model.task_of(model_path)
    test, unknown = task.images("test"), unknown_photos(task, UNKNOWN_PHOTOS)
    crop_breeds(task.data_dir, sorted({breed_name(image.split("/")[0]) for image in unknown}))
    views = {
        kind: [view(task, image) for image in (*test, *unknown)]
        for kind, view in VIEW_KINDS.items()
    }
    arguments = model_path, read_head(model_path)[0][-2], views
    keras = call_in_new_process("dog_breeds.learning.xception", "predict", *arguments)
    known, other = slice(0, len(test)), slice(len(test), None)
    for name in formats:
        for kind, tflite in convert_model.predict_file(
            folder / f"{name}.tflite", views, task.size
        ).items():
            two = [
                tuple(column[known] for column in outputs[:2]) for outputs in (keras[kind], tflite)
            ]
            result = convert_model.compare(
                *two, task.labels(test), report["unknown_rule"]["threshold"]
            )
            areas = [
                auroc(outputs[1][known], outputs[1][other]) for outputs in (keras[kind], tflite)
            ]
            loss = result["keras"]["accuracy"] - result["tflite"]["accuracy"]
            yield f"{name}_{kind}_accuracy", 100 * result["tflite"]["accuracy"], "%"
            yield f"{name}_{kind}_accuracy_lost", 100 * loss, "points"
            yield (
                f"{name}_{kind}_calibration_error",
                100 * result["tflite"]["calibration_error"],
                "%",
            )
            yield f"{name}_{kind}_same_top_class", 100 * result["same_top_class"], "%"
            yield f"{name}_{kind}_largest_change", result["largest_change"], ""
            if unknown:
                yield f"{name}_{kind}_unknown_auroc", areas[1], ""
                yield f"{name}_{kind}_unknown_auroc_lost", areas[0] - areas[1], ""


# --- start ----------------------------------------------------------------------------------------


def measure_start(folder: Path) -> Iterator[Figure]:
    """Yield how fast a process with only the image's packages answers, and its memory then."""
    python = make_environment(folder / "image", "-r", str(ROOT / "requirements-lambda.txt"))
    photo = folder / "photo.jpg"
    photo.write_bytes(handler.photo(500, 375, 2))
    yield from with_units(
        handler.fresh_process(str(folder / "served.tflite"), str(photo), str(python))
    )


# --- command line ---------------------------------------------------------------------------------

PARTS = ("speed", "accuracy", "start")


def measure(model_path: Path, parts: tuple[str, ...], formats: tuple[str, ...]) -> Iterator[Figure]:
    """Write the files, and measure the chosen parts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(model_path, folder)
        if "speed" in parts:
            python = make_environment(folder / "onnx", *ONNX_PACKAGES)
            make_onnx_files(python, folder)
            yield from measure_speed(folder, python, read_report(model_path)["size"])
        if "accuracy" in parts:
            yield from measure_accuracy(model_path, folder, formats)
        if "start" in parts:
            yield from measure_start(folder)


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, metavar="MODEL.h5", required=True)
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument(
        "--formats", nargs="+", choices=FILES, default=FILES, help="to measure the accuracy of"
    )
    args = parser.parse_args()
    report(
        measure(args.model, (args.only,) if args.only else PARTS, tuple(args.formats)), args.json
    )


if __name__ == "__main__":
    main()
