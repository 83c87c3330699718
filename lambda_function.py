"""The AWS Lambda function: answer which dog breed an image shows.

Reads     model.tflite beside this file, or the file that the variable MODEL_FILE names. It is
          loaded once, at start.
Example

    python test.py --model models/dog_breeds_120.tflite --file photo.jpg    # calls lambda_handler

Time      23 ms an inference on a CPU with VNNI, 190 ms with AVX2 alone. Give the function 1,024 MB
          of memory and 15 s.

A request is a JSON object with one of these sources:

    {"url": ADDRESS}                 an image on the web
    {"image": BASE64}                the image itself
    {"urls": [...]}, {"images": [...]}    up to ten of them
    {"bucket": B, "key": K}          an object of S3; only in a direct invocation

"top_k": N limits the answer to N breeds. "explain": true also asks which parts of the image count.
Requests arrive as direct invocations or over HTTP (dog_breeds/serving/http_events.py). Over HTTP,
the body may also be the image itself, GET takes ?url=...&top_k=..., and a browser that asks for /
gets a page. Events of S3 are answered too (dog_breeds/serving/bucket_events.py).

The answer is a JSON object:

    "prediction"    {breed: probability}, likeliest first
    "known"         false if the image seems to show none of the breeds
    "candidates"    if known: the breeds that remain possible, likeliest first, if the model file
                    has a threshold for them
    "cropped"       true if the prediction is for the image without its borders
    "turned"        90, 180 or 270 if the prediction is for the image turned clockwise by that angle
    "explanation"   10 rows of 10 numbers in 0..1 (7 rows of 7 for a model of 224 pixels): how much
                    each part spoke for the first breed. The rows cover the central share
                    "explanation_share" of both sides.
    "model"         for an object of S3: the digest of the model file

A list of sources gives {"predictions": [one answer for each]}. A refusal gives
{"error": {"code", "message"}}. Each request logs one line of JSON, and each image of several logs
its own. The log has no images, no addresses and no names of objects.
"""

import ctypes
import functools
import importlib
import json
import logging
import os
import sys
import time
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Without WebPImagePlugin, Pillow would import all of its formats at the first WebP image.
from PIL import Image, WebPImagePlugin  # noqa: F401

from dog_breeds.serving.answers import Prediction, best_prediction, end_of, half_way, likely_classes
from dog_breeds.serving.bucket_events import answer_service_event, is_service_event
from dog_breeds.serving.cpus import cpu_count, start_log
from dog_breeds.serving.explanation import class_activation_map, explanation_tensors, place_in_image
from dog_breeds.serving.facts import model_digest, read_facts
from dog_breeds.serving.http_bodies import decode_base64, fields_of
from dog_breeds.serving.http_events import (
    NO_WORK,
    USAGE,
    asks_nothing,
    http_request,
    http_response,
)
from dog_breeds.serving.limits import MAX_IMAGES, RequestError, Unanswered
from dog_breeds.serving.page import page_response, wants_page
from dog_breeds.serving.s3_images import read_object
from dog_breeds.serving.safe_images import read_image
from dog_breeds.serving.web_images import download_all

EVENT_TOP_K = 5  # breeds in the answer about a photo in a bucket


# --- Requests -------------------------------------------------------------------------------------


def lambda_handler(event: Any, context: Any = None) -> dict:
    """Answer an event of Lambda.

    A wrong request gets an answer with an error. For a direct invocation, an unexpected exception
    is logged and raised. `Unanswered` is raised for an event that the caller should try again.
    """
    log = {"request_id": getattr(context, "aws_request_id", None), "event": "direct"}
    request, outcome = http_request(event), "ok"
    answer: Any = None  # the answer to HEAD and OPTIONS
    try:
        if request:  # over HTTP
            log["event"] = request.service
            if wants_page(request):
                log["source"] = "page"
                return page_response(request, MODEL.facts, bool(MODEL.explanation_tensors))
            if asks_nothing(request):
                log["source"] = "usage"
                return http_response(request, outcome, USAGE)
            event = fields_of(request)
        elif is_service_event(event):  # S3, SNS, SQS or EventBridge, which read no answer
            log["event"] = "service"
            answer_it = functools.partial(answer_object, log)
            return answer_service_event(event, answer_it, log, end_of(context))
        if not request or request.method not in NO_WORK:
            answer = answer_fields(event, log, end_of(context), direct=not request)
            outcome = outcome_of(answer)
    except RequestError as error:
        outcome, answer = error.args[0], error_answer(error)
    except Unanswered as error:
        outcome = error.code
        raise  # the service that sent the event then tries again
    except Exception:
        outcome, log["traceback"] = "internal_error", traceback.format_exc()
        if not request:
            raise
        message = "the service failed; the fault is ours and is logged"
        answer = error_answer(RequestError(outcome, message))
    finally:
        print(json.dumps(log | {"outcome": outcome}), flush=True)
    return http_response(request, outcome, answer) if request else answer


def answer_fields(fields: Any, log: dict, end: float, direct: bool) -> dict:
    """Return the answer to the fields of a request.

    `end` is the time of time.monotonic() at which Lambda ends the request. `direct` is false for a
    request over HTTP. Raises RequestError if the fields are wrong.
    """
    if not isinstance(fields, dict):
        raise RequestError("invalid_request", "the request must be a JSON object")
    names = ["url", "image", "urls", "images"]
    if direct:  # over HTTP, strangers could read every object that the function's role can
        names.append("key")
    sources = [name for name in names if name in fields]
    if len(sources) != 1:
        raise RequestError("invalid_request", f"the request must have one of {', '.join(names)}")
    source, top_k = sources[0], fields.get("top_k")
    # `type` rather than isinstance, because true and false are ints, too
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= len(MODEL.classes)):
        raise RequestError(
            "invalid_request", f"top_k must be a whole number from 1 to {len(MODEL.classes)}"
        )
    explain = fields.get("explain", False)
    if type(explain) is not bool:
        raise RequestError("invalid_request", "explain must be true or false")
    if explain and not MODEL.explanation_tensors:
        raise RequestError("invalid_request", "this model file cannot explain")
    log["source"] = source
    items = fields[source] if source.endswith("s") else [fields[source]]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_IMAGES:
        raise RequestError("invalid_request", f"{source} must be a list of 1 to {MAX_IMAGES} items")
    items = list(items)
    if not source.startswith("image"):
        start = time.monotonic()
        items = (
            [read_object(fields.get("bucket"), items[0])]
            if source == "key"
            else download_all(items)
        )
        log["download_ms"] = milliseconds_since(start)
    if source == "key":  # a batch's table has the model's digest in each row
        answer = answer_image(items[0], top_k, explain, log, half_way(end))
        return answer | {"model": cached_digest(MODEL_PATH)}
    if not source.endswith("s"):
        return answer_image(items[0], top_k, explain, log, half_way(end))
    answers = []
    for number in range(len(items)):
        # Free each image after its answer, because ten downloads can take 100 MB
        item: Any = items[number]
        items[number] = b""
        until = half_way(end, len(items) - number)
        answers.append(answer_one_of_several(item, top_k, explain, log, until))
    return {"predictions": answers}


def answer_object(log: dict, bucket: str, key: str, until: float) -> dict:
    """Return the answer about a photo in a bucket, with the EVENT_TOP_K likeliest breeds."""
    start = time.monotonic()
    try:
        item = read_object(bucket, key)
    except RequestError as error:
        item = error
    noted = {"download_ms": milliseconds_since(start)}
    answer = answer_one_of_several(item, EVENT_TOP_K, False, log, until, noted)
    return answer | {"model": cached_digest(MODEL_PATH)}


def answer_one_of_several(
    item: Any, top_k: int | None, explain: bool, log: dict, until: float, noted: dict | None = None
) -> dict:
    """Return the answer about one image of several.

    Log the answer on a line of its own, which also has the entries of `noted`.
    """
    log["photos"] = number = log.get("photos", 0) + 1
    entry = {"request_id": log["request_id"], "photo": number} | (noted or {})
    answer = answer_image(item, top_k, explain, entry, until)
    print(json.dumps(entry | {"photo_outcome": outcome_of(answer)}), flush=True)
    return answer


def answer_image(item: Any, top_k: int | None, explain: bool, log: dict, until: float) -> dict:
    """Return the answer about an image.

    `item` is the image's base64 text, its bytes, or the exception that ended its download. `until`
    is a time of time.monotonic(). Decoding stops at this time, and no further attempt starts after
    it.
    """
    try:
        if isinstance(item, Exception):
            raise item
        start = time.monotonic()
        data = item if isinstance(item, bytes) else decode_base64(item, "image")
        pixels = read_image(data, MODEL.size, MODEL.share, log, until)
        log["decode_ms"] = milliseconds_since(start)
        start = time.monotonic()
        best, attempts = best_prediction(run_model, pixels, MODEL.threshold, until)
        answer = answer_for(best, top_k)
        top_class = next(iter(answer["prediction"]))
        log.update(looks=attempts, inference_ms=milliseconds_since(start), top_class=top_class)
        log["unknown"] = int(not answer["known"])  # a number, of which CloudWatch can take the mean
        if explain:
            if attempts > 1:
                # The interpreter holds the last attempt, which need not be the best one
                run_model(best.pixels)
            cells = class_activation_map(
                MODEL.interpreter, MODEL.explanation_tensors, MODEL.classes.index(top_class)
            )
            answer |= {
                "explanation": place_in_image(cells, best.box, best.turned),
                "explanation_share": MODEL.share,
            }
        return answer
    except RequestError as error:
        return error_answer(error)


def outcome_of(answer: dict) -> str:
    """Return the code of an answer's error, or "ok"."""
    return answer["error"]["code"] if "error" in answer else "ok"


def error_answer(error: RequestError) -> dict:
    """Return the answer that a client gets instead of a prediction."""
    return {"error": {"code": error.args[0], "message": error.args[1]}}


def milliseconds_since(start: float) -> float:
    """Return the milliseconds since a time of time.monotonic()."""
    return round((time.monotonic() - start) * 1000, 1)


# --- Model ----------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A loaded model file."""

    interpreter: Any
    classes: list[str]  # in the order of the probabilities
    size: int  # height and width of the input, in pixels
    share: float  # the central share of both sides of an image that the model sees
    threshold: float  # lowest score of an image that counts as known
    candidate_threshold: float | None  # lowest probability of a candidate; None: no candidates
    tensors: list[int]  # indices of the tensors pixels, probabilities, score and upright
    facts: dict  # metadata.json inside the file
    explanation_tensors: list[
        int
    ]  # indices of the tensors for an explanation; empty if one is missing


def load_model(path: Path) -> Model:
    """Load a .tflite file and the facts inside it.

    Raises ValueError if the network and the facts do not match.
    """
    facts = read_facts(path)
    try:
        classes, size, share = facts["classes"], facts["input"]["height"], facts["photo_share"]
        rule = facts["unknown_rule"]
        candidates = float(facts["candidates"]["threshold"]) if "candidates" in facts else None
        # A process may load only one of the runtimes, and no TensorFlow: two of them crash.
        default = "ai_edge_litert" if find_spec("ai_edge_litert") else "tflite_runtime"
        runtime = importlib.import_module(
            os.environ.get("DOG_BREEDS_RUNTIME", default) + ".interpreter"
        )
        interpreter = runtime.Interpreter(str(path), num_threads=cpu_count())
        interpreter.allocate_tensors()
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        names = "probabilities", rule["score"], "upright"  # the rule names an output as its score
        details = interpreter.get_input_details() + [outputs[name] for name in names]
        shapes = [tuple(detail["shape"].tolist()) for detail in details]
        expected = [(1, size, size, 3), (1, len(classes)), (1, 1), (1, 1)]
        if (
            shapes != expected
            or {detail["dtype"] for detail in details} != {np.float32}
            or not 0 < share <= 1
            or not (candidates is None or 0 < candidates < 1)
        ):
            raise ValueError(
                f"tensors of the shapes {shapes}, photo_share {share}, threshold of candidates "
                f"{candidates}, not float32 {expected}, a share and a probability"
            )
        indices = [detail["index"] for detail in details]
        return Model(
            interpreter,
            classes,
            size,
            share,
            float(rule["threshold"]),
            candidates,
            indices,
            facts,
            explanation_tensors(interpreter),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path.name} is damaged, or was not made by convert_model.py: {error}"
        ) from error


def run_model(pixels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Run the model on pixels, float32 [size, size, 3] in 0..255.

    Return the probabilities, float32 [N], the score of the rule for unknown breeds, and the score
    of upright images, which is below 0 for an image that seems turned.
    """
    interpreter, (inputs, *outputs) = MODEL.interpreter, MODEL.tensors
    interpreter.set_tensor(inputs, pixels[None])
    interpreter.invoke()
    probabilities, score, upright = (interpreter.get_tensor(index)[0] for index in outputs)
    return probabilities, score.item(), upright.item()


def answer_for(best: Prediction, top_k: int | None) -> dict:
    """Return the answer for a prediction, with the `top_k` likeliest breeds (None: all)."""
    values = best.probabilities.tolist()
    ranking = sorted(zip(MODEL.classes, values, strict=True), key=lambda item: -item[1])[:top_k]
    prediction = {breed: round(probability, 6) for breed, probability in ranking}
    answer = {"prediction": prediction, "known": best.known}
    if best.known and MODEL.candidate_threshold is not None:
        answer["candidates"] = likely_classes(
            best.probabilities, MODEL.classes, MODEL.candidate_threshold
        )
    if best.box:
        answer["cropped"] = True
    return answer | ({"turned": best.turned} if best.turned else {})


# --- Start ----------------------------------------------------------------------------------------

Image.preinit()  # loads Pillow's usual formats now, and not at the first request
# Pillow warns about each odd tag of an image, and urllib3 logs the names of odd servers
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("urllib3").setLevel(logging.CRITICAL)
MODEL_PATH = Path(os.environ.get("MODEL_FILE") or Path(__file__).with_name("model.tflite"))
MODEL = load_model(MODEL_PATH)
cached_digest = functools.cache(model_digest)
if sys.platform == "linux":
    # limited_memory counts right only if freed memory returns to the system. So blocks of 128 kB
    # and more get pages of their own (M_MMAP_THRESHOLD), and there is only one heap (M_ARENA_MAX).
    ctypes.CDLL(None).mallopt(-3, 2**17)
    ctypes.CDLL(None).mallopt(-8, 1)
if "AWS_LAMBDA_RUNTIME_API" in os.environ:  # in the service, not in a script that imports this
    print(json.dumps(start_log(MODEL.interpreter)), flush=True)
