"""Measure what lambda_function.py costs besides the inference of its model, and what it withstands.

Example

    python benchmarks/handler.py --json handler.json     # about 3 minutes
    python benchmarks/handler.py --model other.tflite

Time      About 3 minutes.
Expect    One figure a line, all with one thread:
          - a warm call for a small and a 12-megapixel JPEG of a known breed (handler_500x375_ms and
            so on). If the breed is unknown: one inference for an upright photo
            (handler_unknown_*), four for one that seems turned (handler_turned_*);
          - beside them the bare inference, and the original's handler (NEAREST to 150 or 299 px,
            float32, tflite-runtime);
          - the time from the start of a process to its first answer;
          - the most time and memory that an image of tests/odd_images.py costs;
          - the memory over 2,000 requests to AWS's emulator.

The script draws its images. Needs Linux, tests/, the packages of requirements.txt, and Python 3.10
or 3.11, the last versions that tflite-runtime supports."""

import base64
import functools
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import MODEL, ROOT, Figure, command_line, report, with_units
from PIL import Image

CALLS = 100  # calls per median
REQUESTS = 2000
KNOWN, UNKNOWN = -1e9, 1e9  # score thresholds: every image is known, or none


def photo(width: int, height: int, noise: float) -> bytes:
    """Return a JPEG like a photo: waves of all lengths, longer ones higher, and noise in levels of
    255."""
    random = np.random.default_rng(0)
    pixels = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 10):
        coarse = random.normal(
            0, 90 / 2 ** (octave / 2), (2**octave * 3 // 4 + 2, 2**octave + 2, 3)
        ).astype(np.float32)
        for channel in range(3):
            image = Image.fromarray(coarse[:, :, channel]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            pixels[:, :, channel] += np.asarray(image)
    pixels += random.normal(0, noise, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def knowing_all(model: Path, file: Path) -> Path:
    """Write a model file that takes every image as known and upright. Otherwise a drawn image would
    take several inferences."""
    from dog_breeds.learning.tflite import join_head, read_head
    from dog_breeds.serving.facts import append_facts, read_facts

    facts, (head, means, (kernel, bias)) = read_facts(model), read_head(model)
    file.write_bytes(join_head(model.read_bytes(), head, means, (0 * kernel, 0 * bias + 1)))
    append_facts(file, facts | {"unknown_rule": facts["unknown_rule"] | {"threshold": KNOWN}})
    return file


def in_process(function: Callable, *arguments: object) -> dict:
    """Return the result of a function that runs in its own process: the runtimes and TensorFlow
    cannot share one."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import handler; "
        "handler.answer(*sys.argv[2:])"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(Path(__file__).parent),
        function.__name__,
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def answer(function: str, *arguments: str) -> None:
    """Print the result of a function: the other end of in_process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one CPU, so one thread
    print(json.dumps(globals()[function](*arguments)))


def medians(functions: dict[str, Callable]) -> dict[str, float]:
    """Return the median milliseconds of each function. Calls take turns, so that noise hits all
    functions."""
    times = {name: [] for name in functions}
    for turn in range(CALLS + 5):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 5:
                times[name].append(1000 * (time.perf_counter() - start))
    return {f"{name}_ms": statistics.median(values) for name, values in times.items()}


def warm_calls(model: str, *files: str) -> dict[str, float]:
    """Measure the handler and the bare inference."""
    os.environ["MODEL_FILE"] = model
    import lambda_function

    sys.stdout = io.StringIO()  # the handler's log
    interpreter, (inputs, *outputs) = (
        lambda_function.MODEL.interpreter,
        lambda_function.MODEL.tensors,
    )
    pixels = lambda_function.read_image(
        Path(files[0]).read_bytes(), lambda_function.MODEL.size, 1.0, {}
    )[None]

    def inference() -> None:
        interpreter.set_tensor(inputs, pixels)
        interpreter.invoke()
        for output in outputs:
            interpreter.get_tensor(output)

    look = lambda_function.run_model

    def handler(file: str, threshold: float = KNOWN, upright: float = 1.0) -> Callable:
        event = {"image": base64.b64encode(Path(file).read_bytes()).decode()}
        model = lambda_function.MODEL._replace(threshold=threshold)

        def run(pixels: np.ndarray) -> tuple[np.ndarray, float, float]:
            return *look(pixels)[:2], upright

        def call() -> None:
            lambda_function.MODEL, lambda_function.run_model = model, run
            lambda_function.lambda_handler(event)

        return call

    known = {f"handler_{Path(file).stem}": handler(file) for file in files}
    unknown = {f"handler_unknown_{Path(files[0]).stem}": handler(files[0], UNKNOWN)}
    turned = {f"handler_turned_{Path(files[0]).stem}": handler(files[0], upright=-1.0)}
    results = medians({"inference": inference, **known, **unknown, **turned})
    sys.stdout = sys.__stdout__
    ratios = {
        name.replace("_ms", "_to_inference"): value / results["inference_ms"]
        for name, value in results.items()
    }
    return {
        **results,
        **{name: value for name, value in ratios.items() if name.startswith("handler")},
    }


def original_model(size: str, file: str) -> dict:
    """Write the network of the original, at this input size and with random weights, as float32."""
    import keras
    import tensorflow as tf

    os.sched_setaffinity(0, range(os.cpu_count()))
    inputs = keras.Input((int(size), int(size), 3))
    backbone = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(int(size), int(size), 3)
    )
    inner = keras.layers.Dense(1000, activation="relu")(
        keras.layers.GlobalAveragePooling2D()(backbone(inputs))
    )
    model = keras.Model(inputs, keras.layers.Dense(10)(inner))
    Path(file).write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return {}


def original_calls(size: str, model: str, *files: str) -> dict[str, float]:
    """Measure the original's handler on a downloaded image, processed like in the original and
    keras-image-helper."""
    from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(model)
    interpreter.allocate_tensors()
    inputs, outputs = (
        interpreter.get_input_details()[0]["index"],
        interpreter.get_output_details()[0]["index"],
    )
    classes = [f"breed {number}" for number in range(10)]

    def predict(content: bytes) -> dict:
        with Image.open(io.BytesIO(content)) as image:
            image = image.convert("RGB").resize((int(size), int(size)), Image.Resampling.NEAREST)
        interpreter.set_tensor(inputs, np.array([np.array(image, dtype="float32")]) / 255)
        interpreter.invoke()
        return dict(zip(classes, interpreter.get_tensor(outputs)[0].tolist(), strict=True))

    contents = {f"original_{size}_px_{Path(file).stem}": Path(file).read_bytes() for file in files}
    return medians(
        {name: functools.partial(predict, content) for name, content in contents.items()}
    )


def fresh_process(model: str, small: str, python: str = sys.executable) -> dict[str, float]:
    """Measure the time from the start of a process to its first answer, and its resident memory
    after a hundred answers.

    The model must come from `knowing_all`."""
    code = """
import base64, contextlib, io, os, sys
import lambda_function
event = {"image": base64.b64encode(open(sys.argv[1], "rb").read()).decode()}
with contextlib.redirect_stdout(io.StringIO()):
    lambda_function.lambda_handler(event)
print("answered", flush=True)
with contextlib.redirect_stdout(io.StringIO()):
    for _ in range(99):
        lambda_function.lambda_handler(event)
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE"))
"""
    env = {**os.environ, "MODEL_FILE": model, "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(10):
        start = time.perf_counter()
        command = [python, "-c", code, small]
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            process.stdout.readline()
            times.append(1000 * (time.perf_counter() - start))
            resident = int(process.stdout.read())
    return {
        "start_to_first_answer_ms": statistics.median(times),
        "resident_after_100_answers_mb": resident / 1e6,
    }


def odd_images(model: str) -> dict[str, float]:
    """Measure the most that an image of tests/odd_images.py costs."""
    from handler_process import handler_process
    from odd_images import cases

    seconds, memory, number = 0.0, 0.0, 0
    with handler_process(Path(model)) as ask:
        for name, content, _ in cases():
            answered = ask({"image": base64.b64encode(content).decode()})
            if answered.raised:
                raise RuntimeError(f"{name}: {answered.raised}")
            seconds, memory, number = (
                max(seconds, answered.seconds),
                max(memory, answered.peak_mb),
                number + 1,
            )
    return {"odd_images": number, "odd_slowest_s": seconds, "odd_peak_mb": memory}


def many_requests(model: str, small: str) -> dict[str, float]:
    """Measure failures, requests a second and resident memory through emulator and client."""
    from emulator import emulator

    content = Path(small).read_bytes()
    text, cut = base64.b64encode(content).decode(), base64.b64encode(content[:5000]).decode()
    post = {
        "requestContext": {"http": {"method": "POST"}},
        "rawPath": "/",
        "headers": {"content-type": "image/jpeg"},
    }
    events = [
        ({"image": text}, "prediction"),
        ({"images": [text, cut]}, "predictions"),
        ({"image": cut}, "error"),
        ({"url": "http://127.0.0.1/dog.jpg"}, "error"),
        ({**post, "body": text, "isBase64Encoded": True}, "statusCode"),
    ]
    failures, residents = 0, {}
    with emulator(Path(model)) as stack:
        start = time.perf_counter()
        for number, (event, key) in enumerate(
            itertools.islice(itertools.cycle(events), REQUESTS), 1
        ):
            failures += key not in stack.invoke(event)
            if number in (100, REQUESTS):
                pages = int(Path(f"/proc/{stack.runtime_pid()}/statm").read_text().split()[1])
                residents[number] = pages * os.sysconf("SC_PAGESIZE") / 1e6
        seconds = time.perf_counter() - start
    return {
        "emulator_requests": REQUESTS,
        "emulator_failures": failures,
        "emulator_requests_per_s": REQUESTS / seconds,
        "emulator_resident_after_100_mb": residents[100],
        "emulator_resident_at_end_mb": residents[REQUESTS],
        "emulator_resident_growth": residents[REQUESTS] / residents[100] - 1,
    }


def measure(model: Path) -> Iterator[Figure]:
    """Draw the images, and measure everything on them."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            Path(folder) / f"{name}.jpg"
            for name in ("500x375", "12_megapixels", "12_megapixels_of_detail")
        ]
        for file, *size_and_noise in zip(
            files, (500, 4032, 4032), (375, 3024, 3024), (2, 2, 6), strict=True
        ):
            file.write_bytes(photo(*size_and_noise))
            yield f"jpeg_{file.stem}_mb", file.stat().st_size / 1e6, "MB"
        yield from with_units(in_process(warm_calls, model, *files))
        for size in (150, 299):
            in_process(original_model, size, Path(folder) / "original.tflite")
            yield from with_units(
                in_process(original_calls, size, Path(folder) / "original.tflite", *files)
            )
        knowing = knowing_all(model, Path(folder) / "knowing.tflite")
        yield from with_units(fresh_process(str(knowing), str(files[0])))
        yield from with_units(odd_images(str(model)))
        yield from with_units(many_requests(str(model), str(files[0])))


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    args = parser.parse_args()
    if not args.model.exists():
        sys.exit(
            f"handler.py: no {args.model}; make it with convert_model.py, "
            "or name another one with --model"
        )
    report(measure(args.model.resolve()), args.json)


if __name__ == "__main__":
    main()
