"""Dog breeds on AWS Lambda: says which breed a picture shows.

Reads   model.tflite beside this file, or the file that the variable MODEL_FILE names, once, at
        start.
Takes   {"url": U}, {"image": base64}, {"urls": [...]} or {"images": [...]}, with "top_k" if wanted,
        from a direct invocation or over HTTP (dog_breeds/serving/http_events.py says by which
        services), where the body may also be the picture itself and GET takes ?url=...&top_k=...; a
        browser that asks for / gets a page. From a direct invocation also {"bucket": B, "key": K},
        an object of S3, whose answer also has "model", the digest of the model file
Gives   {"prediction": {breed: probability}, "known": true}, best first; for lists {"predictions":
        [one for each]}; or {"error": {"code", "message"}}. Where "known" is true, also
        "candidates", a list of breeds, likeliest first: the right one is most probably among them,
        if the model file states a threshold for that. With "cropped": true, it is about the
        picture without its borders, with "turned": 90, 180 or 270 about the picture turned
        clockwise by so many degrees. With "explain": true also "explanation", 10 rows of 10 numbers
        0..1 (7 of 7 at 224 pixels): how much each part of the picture's central "explanation_share"
        of both sides spoke for the first breed. Prints one line of JSON a request, and one
        for each picture of several, without pictures, URLs and names of objects.

Give the function 1024 MB and 15 s. The image holds this file, the modules of dog_breeds that it
imports, the page, and the model.
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
from PIL import Image, WebPImagePlugin  # noqa: F401  without it Pillow would import all its formats for WebP

from dog_breeds.serving.answers import Prediction, best_prediction, end_of, half_way, likely_classes
from dog_breeds.serving.bucket_events import answer_service_event, is_service_event
from dog_breeds.serving.cpus import cpu_count, start_log
from dog_breeds.serving.explanation import class_activation_map, explaining, on_picture
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
from dog_breeds.serving.safe_images import read_picture
from dog_breeds.serving.web_images import download_all

EVENT_TOP_K = 5  # breeds in the answer to a photo that an event names


# --- Requests -------------------------------------------------------------------------------------


def lambda_handler(event: Any, context: Any = None) -> dict:
    """Answer an event. What is wrong with a request is an answer too; a fault of ours is logged and
    raised, and so is an event that gets no answer, after which the caller may try again.
    """
    log = {"request_id": getattr(context, "aws_request_id", None), "event": "direct"}
    request, outcome = http_request(event), "ok"
    answer: Any = None  # stays so for HTTP methods that ask for no work
    try:
        if request:
            log["event"] = request.service
            if wants_page(request):
                log["source"] = "page"
                return page_response(request, MODEL.facts, bool(MODEL.explaining))
            if asks_nothing(request):
                log["source"] = "usage"
                return http_response(request, outcome, USAGE)
            event = fields_of(request)
        elif is_service_event(event):
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
        raise
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
    """Return the answer to the fields of a request that ends at a time of time.monotonic();
    `direct`: not over HTTP.
    """
    if not isinstance(fields, dict):
        raise RequestError("invalid_request", "the request must be a JSON object")
    names = ["url", "image", "urls", "images"]
    if direct:  # over HTTP strangers could read what the function's role may
        names.append("key")
    sources = [name for name in names if name in fields]
    if len(sources) != 1:
        raise RequestError("invalid_request", f"the request must have one of {', '.join(names)}")
    source, top_k = sources[0], fields.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= len(MODEL.classes)):
        raise RequestError(
            "invalid_request", f"top_k must be a whole number from 1 to {len(MODEL.classes)}"
        )
    explain = fields.get("explain", False)
    if type(explain) is not bool:
        raise RequestError("invalid_request", "explain must be true or false")
    if explain and not MODEL.explaining:
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
    if source == "key":  # a row of a table, which says by which model it is
        answer = answer_picture(items[0], top_k, explain, log, half_way(end))
        return answer | {"model": cached_digest(MODEL_PATH)}
    if not source.endswith("s"):
        return answer_picture(items[0], top_k, explain, log, half_way(end))
    answers = []
    for number in range(len(items)):
        # Let go when it is answered: ten downloads may have 100 MB.
        item: Any = items[number]
        items[number] = b""
        until = half_way(end, len(items) - number)
        answers.append(answer_one_of_several(item, top_k, explain, log, until))
    return {"predictions": answers}


def answer_object(log: dict, bucket: str, key: str, until: float) -> dict:
    """Return the answer to a photo in a bucket that an event names, with the EVENT_TOP_K likeliest
    breeds.
    """
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
    """Return the answer to one picture of several. Log it on a line of its own, with `noted`."""
    log["photos"] = number = log.get("photos", 0) + 1
    entry = {"request_id": log["request_id"], "photo": number} | (noted or {})
    answer = answer_picture(item, top_k, explain, entry, until)
    print(json.dumps(entry | {"photo_outcome": outcome_of(answer)}), flush=True)
    return answer


def answer_picture(item: Any, top_k: int | None, explain: bool, log: dict, until: float) -> dict:
    """Return the answer to a picture: to its base64 text, its bytes, or the exception that its
    download ended with.

    It is to be decoded before `until`, a time of time.monotonic(), after which there are no further
    attempts.
    """
    try:
        if isinstance(item, Exception):
            raise item
        start = time.monotonic()
        data = item if isinstance(item, bytes) else decode_base64(item, "image")
        pixels = read_picture(data, MODEL.size, MODEL.share, log, until)
        log["decode_ms"] = milliseconds_since(start)
        start = time.monotonic()
        best, attempts = best_prediction(run_model, pixels, MODEL.threshold, until)
        answer = answer_for(best, top_k)
        top_class = next(iter(answer["prediction"]))
        log.update(looks=attempts, inference_ms=milliseconds_since(start), top_class=top_class)
        log["unknown"] = int(not answer["known"])  # a number, of which CloudWatch can take the mean
        if explain:
            if attempts > 1:
                run_model(best.pixels)  # the best attempt need not have been the last one
            cells = class_activation_map(
                MODEL.interpreter, MODEL.explaining, MODEL.classes.index(top_class)
            )
            answer |= {
                "explanation": on_picture(cells, best.box, best.turned),
                "explanation_share": MODEL.share,
            }
        return answer
    except RequestError as error:
        return error_answer(error)


def outcome_of(answer: dict) -> str:
    """Return the code of an answer's error, or "ok"."""
    return answer["error"]["code"] if "error" in answer else "ok"


def error_answer(error: RequestError) -> dict:
    """Return the answer that takes the place of a prediction."""
    return {"error": {"code": error.args[0], "message": error.args[1]}}


def milliseconds_since(start: float) -> float:
    """Return the milliseconds since a time of time.monotonic()."""
    return round((time.monotonic() - start) * 1000, 1)


# --- Model ----------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A loaded model file."""

    interpreter: Any
    classes: list[str]  # in the order of the probabilities
    size: int  # of the input: pixels a side
    share: float  # of both sides of a photo, around its centre: what the model is shown
    threshold: float  # of the score for unknown breeds: from here on, a breed counts as known
    likely: float | None  # probability that makes a class a candidate; None: no candidates
    tensors: list[int]  # indices of pixels, probabilities, that score, and upright
    facts: dict  # what the file says of itself
    explaining: list[int]  # indices of the tensors that tell where it looked; empty if it has none


def load_model(path: Path) -> Model:
    """Load a .tflite file and the facts in the zip archive at its end; ValueError if the two do not
    make a model.
    """
    facts = read_facts(path)
    try:
        classes, size, share = facts["classes"], facts["input"]["height"], facts["photo_share"]
        rule = facts["unknown_rule"]
        likely = float(facts["candidates"]["threshold"]) if "candidates" in facts else None
        # Only one of the two runtimes may be in a process, and no TensorFlow beside it: together
        # they crash.
        default = "ai_edge_litert" if find_spec("ai_edge_litert") else "tflite_runtime"
        runtime = importlib.import_module(
            os.environ.get("DOG_BREEDS_RUNTIME", default) + ".interpreter"
        )
        interpreter = runtime.Interpreter(str(path), num_threads=cpu_count())
        interpreter.allocate_tensors()
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
        names = "probabilities", rule["score"], "upright"  # the score is an output of the file
        details = interpreter.get_input_details() + [outputs[name] for name in names]
        shapes = [tuple(detail["shape"].tolist()) for detail in details]
        expected = [(1, size, size, 3), (1, len(classes)), (1, 1), (1, 1)]
        if (
            shapes != expected
            or {detail["dtype"] for detail in details} != {np.float32}
            or not 0 < share <= 1
            or not (likely is None or 0 < likely < 1)
        ):
            raise ValueError(
                f"tensors of the shapes {shapes}, photo_share {share}, threshold of candidates "
                f"{likely}, not float32 {expected}, a share and a probability"
            )
        indices = [detail["index"] for detail in details]
        return Model(
            interpreter,
            classes,
            size,
            share,
            float(rule["threshold"]),
            likely,
            indices,
            facts,
            explaining(interpreter),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path.name} is damaged, or was not made by convert_model.py: {error}"
        ) from error


def run_model(pixels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return probabilities, float32 [N], the score for unknown breeds, and uprightness of pixels,
    float32 (size, size, 3) in 0..255.
    """
    interpreter, (inputs, *outputs) = MODEL.interpreter, MODEL.tensors
    interpreter.set_tensor(inputs, pixels[None])
    interpreter.invoke()
    probabilities, score, upright = (interpreter.get_tensor(index)[0] for index in outputs)
    return probabilities, score.item(), upright.item()


def answer_for(best: Prediction, top_k: int | None) -> dict:
    """Return the answer that a prediction about a picture gives."""
    values = best.probabilities.tolist()
    ranking = sorted(zip(MODEL.classes, values, strict=True), key=lambda item: -item[1])[:top_k]
    prediction = {breed: round(probability, 6) for breed, probability in ranking}
    answer = {"prediction": prediction, "known": best.known}
    if best.known and MODEL.likely is not None:
        answer["candidates"] = likely_classes(best.probabilities, MODEL.classes, MODEL.likely)
    if best.box:
        answer["cropped"] = True
    return answer | ({"turned": best.turned} if best.turned else {})


# --- Start ----------------------------------------------------------------------------------------

Image.preinit()  # Pillow's usual formats, which the first picture would load otherwise
warnings.filterwarnings("ignore", module="PIL")  # remarks on odd pictures, a line for each odd tag
logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # remarks on odd servers, with their names
MODEL_PATH = Path(os.environ.get("MODEL_FILE") or Path(__file__).with_name("model.tflite"))
MODEL = load_model(MODEL_PATH)
cached_digest = functools.cache(model_digest)
if sys.platform == "linux":
    # Freed memory is to return, so that limited_memory counts right: blocks of 128 kB and more
    # always get pages of their own (M_MMAP_THRESHOLD), and there is one heap (M_ARENA_MAX), else a
    # full one is left for another.
    ctypes.CDLL(None).mallopt(-3, 2**17)
    ctypes.CDLL(None).mallopt(-8, 1)
if "AWS_LAMBDA_RUNTIME_API" in os.environ:  # a function, and not a script that imports this module
    print(json.dumps(start_log(MODEL.interpreter)), flush=True)
