"""Dog breeds on AWS Lambda: says which breed a picture shows.

Reads   top_10_dog_breeds.tflite beside this file (or the file that the variable MODEL_FILE names), once, at start.
Takes   {"url": U}, {"image": base64}, {"urls": [...]} or {"images": [...]}, with an optional "top_k", as a direct
        invocation or over HTTP: API Gateway (REST and HTTP API), a function URL or an Application Load Balancer, where
        the body may also be the picture itself, and GET takes ?url=...&top_k=...
Gives   {"prediction": {breed: probability, ...}, "known": true}, best first, or {"error": {"code": ..., "message": ...}};
        for lists {"predictions": [one of these for each]}. Standard output has one line of JSON a request.

Give the function 1024 MB and 15 s or more. Needs nothing of the project: the image holds this file and the model.
"""

import base64
import binascii
import importlib
import importlib.util
import io
import json
import os
import socket
import time
import traceback
import urllib.parse
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

MAX_BYTES = 10_000_000  # of a picture
MAX_PIXELS = 50_000_000  # of a picture, checked before it is decoded
MAX_PICTURES = 10  # of a list
MAX_SECONDS = 8.0  # for all downloads of a request together
MAX_REDIRECTS = 3
MAX_URL = 2048  # characters
PORTS = {"http": 80, "https": 443}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
PATHS = ("/", "/predict")
METHODS = ("GET", "HEAD", "OPTIONS", "POST")
USER_AGENT = "dog-breeds/1.0 (a classifier of dog pictures; fetches what its users name)"
STATUS = {  # of an error's code, over HTTP
    "invalid_request": 400,
    "url_refused": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "unsupported_type": 415,
    "invalid_image": 422,
    "internal_error": 500,
    "download_failed": 502,
    "download_timeout": 504,
}


class RequestError(Exception):
    """What is wrong with a request: a code of STATUS, and a message for the person who asked."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.answer = {"error": {"code": code, "message": message}}


# ---------------------------------------------------------------- model


class Model(NamedTuple):
    """A loaded model: its runtime, its classes in output order, its input size in pixels, its rule for "known"."""

    interpreter: Any
    classes: list[str]
    size: int
    threshold: float
    input: int
    probabilities: int
    energy: int


def load_model(path: Path) -> Model:
    """Load a .tflite and the facts in the zip archive at its end; ValueError or OSError if it is not what is needed."""
    try:
        with zipfile.ZipFile(path) as archive:
            labels = archive.read("labels.txt").decode().splitlines()
            metadata = json.loads(archive.read("metadata.json"))
        classes, size = metadata["classes"], metadata["input"]["height"]
        threshold = float(metadata["unknown_rule"]["threshold"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} lacks its labels or facts, or is damaged ({error}); {_REMEDY}") from error
    try:
        interpreter = _runtime().Interpreter(str(path), num_threads=_cpus())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path.name} is damaged or not a model for this runtime ({error}); {_REMEDY}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    indices = {tuple(int(side) for side in output["shape"]): output["index"] for output in outputs}
    shapes = [tuple(int(side) for side in detail["shape"]) for detail in inputs]
    wanted = {(1, len(labels)), (1, 1)}
    if labels != classes or len(set(labels)) != len(labels) or len(labels) < 2:
        raise ValueError(f"{path.name}: labels.txt and the classes of metadata.json differ; {_REMEDY}")
    if shapes != [(1, size, size, 3)] or set(indices) != wanted or len(outputs) != 2:
        raise ValueError(
            f"{path.name} maps {shapes} to {sorted(indices)}, not a picture to {sorted(wanted)}; {_REMEDY}"
        )
    if any(detail["dtype"] != np.float32 for detail in inputs + outputs):
        raise ValueError(f"{path.name} takes or gives other numbers than float32; {_REMEDY}")
    return Model(interpreter, classes, size, threshold, inputs[0]["index"], indices[1, len(labels)], indices[1, 1])


_REMEDY = "make it with convert_model.py"


def _runtime() -> Any:
    """The module with the Interpreter. Only ever one of the two in a process: together they crash."""
    wanted = os.environ.get("DOG_BREEDS_RUNTIME") or (
        "ai_edge_litert" if importlib.util.find_spec("ai_edge_litert") else "tflite_runtime"
    )
    return importlib.import_module(f"{wanted}.interpreter")


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def predict(pixels: np.ndarray, top_k: int | None) -> dict:
    """Answer for the pixels (size, size, 3) float32 0..255 of a picture."""
    MODEL.interpreter.set_tensor(MODEL.input, pixels[None])
    MODEL.interpreter.invoke()
    probabilities = MODEL.interpreter.get_tensor(MODEL.probabilities)[0]
    energy = MODEL.interpreter.get_tensor(MODEL.energy)[0, 0]
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return {
        "prediction": {MODEL.classes[index]: round(float(probabilities[index]), 6) for index in best},
        "known": bool(energy >= MODEL.threshold),
    }


# ---------------------------------------------------------------- pictures


def read_picture(data: bytes, size: int, log: dict) -> np.ndarray:
    """Pixels (size, size, 3) float32 RGB 0..255 of the picture in these bytes, as training prepares a photo."""
    if len(data) > MAX_BYTES:
        raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
    log["bytes"] = len(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels") from None
    except Exception:  # damaged files make Pillow raise nearly anything
        raise RequestError("unsupported_type", f"the picture is not a readable {', '.join(FORMATS)}") from None
    log["size"] = list(image.size)
    if image.width * image.height > MAX_PIXELS:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels")
    try:
        image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a smaller scale
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        raise RequestError("invalid_image", "the picture is damaged or incomplete") from None
    return np.asarray(to_rgb(image).resize((size, size), Image.Resampling.BILINEAR), np.float32)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB: transparency over white, 16-bit gray by its upper byte (as Pillow itself reads 16-bit RGB)."""
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def decode_base64(text: Any) -> bytes:
    """Bytes of a base64 text or a data URL."""
    if not isinstance(text, str):
        raise RequestError("invalid_request", "image must be a base64 text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > MAX_BYTES * 1.4:
        raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("invalid_request", "image is not valid base64") from None


# ---------------------------------------------------------------- downloads


def download_all(urls: list, logs: list[dict]) -> list:
    """Download side by side; for each URL its bytes or a RequestError, after MAX_SECONDS at the latest."""
    deadline = time.monotonic() + MAX_SECONDS
    connections: list = []
    pool = ThreadPoolExecutor(len(urls))
    futures = [pool.submit(download, url, deadline, connections, log) for url, log in zip(urls, logs, strict=True)]
    pool.shutdown(wait=False)
    wait(futures, MAX_SECONDS)
    for connection in connections:  # ends a download that trickles: its thread sees the end of the stream
        if connection.sock is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
    late = RequestError("download_timeout", f"the download took more than {MAX_SECONDS:g} seconds")
    return [(future.exception() or future.result()) if future.done() else late for future in futures]


def download(url: Any, deadline: float, connections: list, log: dict) -> bytes:
    """Bytes behind a public URL."""
    from AntiSSRF import AntiSSRFError

    start = time.monotonic()
    try:
        with public_session(deadline, connections) as session:
            for _ in range(MAX_REDIRECTS + 1):
                request = session.prepare_request(checked_request(url))
                check_url(request.url)
                left = deadline - time.monotonic()
                with session.send(request, stream=True, allow_redirects=False, timeout=max(left, 0.001)) as response:
                    if response.is_redirect:
                        url = urllib.parse.urljoin(request.url, session.get_redirect_target(response))
                        continue
                    return read_body(response)
            raise RequestError("download_failed", f"the URL redirects more than {MAX_REDIRECTS} times")
    except AntiSSRFError:
        raise RequestError("url_refused", "the host of the URL has no public address") from None
    except (OSError, UnicodeError, ValueError):
        if time.monotonic() >= deadline:
            raise RequestError("download_timeout", f"the download took more than {MAX_SECONDS:g} seconds") from None
        raise RequestError("download_failed", "the picture could not be downloaded") from None
    finally:
        log["download_ms"] = _ms(start)


def public_session(deadline: float, connections: list) -> Any:
    """A requests session that connects to public addresses only."""
    from AntiSSRF import AntiSSRFPolicy, PolicyConfigOptions

    policy = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    policy.allow_plain_text_http = True
    session = policy.get_antissrf_session()
    session.trust_env = False
    session.headers = {"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
    return session


def checked_request(url: Any) -> Any:
    """A request for a URL."""
    import requests

    if not isinstance(url, str) or len(url) > MAX_URL or not url.isprintable() or "\\" in url or " " in url:
        raise RequestError("url_refused", "the URL is not valid")
    return requests.Request("GET", url)


def check_url(url: str) -> None:
    """Refuse what is not a plain http or https URL."""
    parts = urllib.parse.urlsplit(url)
    if PORTS.get(parts.scheme) is None or parts.username is not None or parts.password is not None:
        raise RequestError("url_refused", "only http and https URLs without user names")
    if parts.port not in (None, PORTS[parts.scheme]):
        raise RequestError("url_refused", "only the default ports")


def read_body(response: Any) -> bytes:
    """Bytes of a response, at most MAX_BYTES."""
    if response.status_code != 200:
        raise RequestError("download_failed", f"the server answered with status {response.status_code}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RequestError("download_failed", "the server sent the picture compressed")
    data = bytearray()
    for chunk in response.iter_content(65536):
        data += chunk
        if len(data) > MAX_BYTES:
            raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
    return bytes(data)


# ---------------------------------------------------------------- events


def http_request(event: dict) -> dict | None:
    """What an HTTP event asks for, the same for every kind of event; None for a direct invocation."""
    context = event.get("requestContext")
    if not isinstance(context, dict):
        return None
    kind = "alb" if "elb" in context else "v2" if isinstance(context.get("http"), dict) else "v1"
    if kind == "v2":
        method, path = context["http"].get("method"), event.get("rawPath")
    else:
        method, path = event.get("httpMethod"), event.get("path")
    headers = {**_dict(event.get("headers")), **_firsts(event.get("multiValueHeaders"))}
    query = {**_dict(event.get("queryStringParameters")), **_firsts(event.get("multiValueQueryStringParameters"))}
    if kind == "alb":
        query = {urllib.parse.unquote_plus(str(k)): urllib.parse.unquote_plus(str(v)) for k, v in query.items()}
    path, stage = str(path or "/"), context.get("stage")
    if isinstance(stage, str) and path.split("/")[1:2] == [stage]:
        path = path[len(stage) + 1 :]
    return {
        "kind": kind,
        "multi": isinstance(event.get("multiValueHeaders"), dict) and kind == "alb",
        "method": str(method).upper(),
        "path": "/" + path.strip("/"),
        "type": str({str(k).lower(): v for k, v in headers.items()}.get("content-type", ""))
        .split(";")[0]
        .strip()
        .lower(),
        "query": query,
        "body": event.get("body"),
        "base64": event.get("isBase64Encoded") is True,
    }


def fields_of(request: dict) -> dict:
    """The fields (url, image, urls, images, top_k) of an HTTP request."""
    if request["path"] not in PATHS:
        raise RequestError("not_found", f"no such path; use {PATHS[-1]}")
    if request["method"] not in METHODS:
        raise RequestError("method_not_allowed", f"use {', '.join(METHODS)}")
    query = request["query"]
    top_k = query.get("top_k")
    query = {**query, "top_k": int(top_k)} if isinstance(top_k, str) and top_k.isdecimal() else query
    if request["method"] == "GET":
        return {key: query[key] for key in ("url", "top_k") if key in query}
    body = request["body"] or ""
    if request["type"].startswith("image/"):
        if not request["base64"]:
            raise RequestError("unsupported_type", "the gateway did not pass the picture as binary")
        return {"image": body, **{key: query[key] for key in ("top_k",) if key in query}}
    if request["type"] not in ("", "application/json"):
        raise RequestError("unsupported_type", "send application/json or image/...")
    try:
        return json.loads(decode_base64(body) if request["base64"] else body)
    except (TypeError, ValueError, RecursionError):
        raise RequestError("invalid_request", "the body is not valid JSON") from None


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _firsts(value: Any) -> dict:
    return {key: values[-1] for key, values in _dict(value).items() if isinstance(values, list) and values}


# ---------------------------------------------------------------- handler


def lambda_handler(event: Any, context: Any = None) -> dict:
    """Answer an event; see the head of this file."""
    log = {"request_id": getattr(context, "aws_request_id", None), "outcome": "ok"}
    request = http_request(event) if isinstance(event, dict) else None
    log["event"] = request["kind"] if request else "direct"
    status = 200
    try:
        if request and request["method"] in ("HEAD", "OPTIONS") and request["path"] in PATHS:
            answer = None
        else:
            answer = answer_to(fields_of(request) if request else event, log)
    except RequestError as error:
        answer, status, log["outcome"] = error.answer, STATUS[error.code], error.code
    except Exception:
        log.update(outcome="internal_error", traceback=traceback.format_exc())
        if not request:
            raise
        answer, status = RequestError("internal_error", "the service failed").answer, 500
    finally:
        print(json.dumps(log), flush=True)
    return http_response(request, status, answer) if request else answer


def http_response(request: dict, status: int, answer: dict | None) -> dict:
    """A response in the form that the kind of event wants."""
    headers = {"Content-Type": "application/json"}
    if request["method"] == "OPTIONS" or status == 405:
        headers["Allow"] = ", ".join(METHODS)
    response = {
        "statusCode": status,
        "headers": headers,
        "body": json.dumps(answer) if answer else "",
        "isBase64Encoded": False,
    }
    if request["kind"] == "alb":
        response["statusDescription"] = f"{status} OK"
        if request["multi"]:
            response["multiValueHeaders"] = {key: [value] for key, value in response.pop("headers").items()}
    return response


def answer_to(fields: Any, log: dict) -> dict:
    """Prediction or predictions for the fields of a request."""
    if not isinstance(fields, dict):
        raise RequestError("invalid_request", "the request must be a JSON object")
    given = [key for key in ("url", "image", "urls", "images") if key in fields]
    if len(given) != 1:
        raise RequestError("invalid_request", "give one of url, image, urls and images")
    source, top_k = given[0], fields.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= len(MODEL.classes)):
        raise RequestError("invalid_request", f"top_k must be a whole number from 1 to {len(MODEL.classes)}")
    log["source"] = source
    items = fields[source] if source in ("urls", "images") else [fields[source]]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_PICTURES:
        raise RequestError("invalid_request", f"{source} must be a list of 1 to {MAX_PICTURES}")
    logs = [{} for _ in items]
    items = download_all(items, logs) if source in ("url", "urls") else items
    if source in ("url", "image"):
        try:
            return answer_picture(items[0], top_k, logs[0])
        finally:
            log.update(logs[0])
    answers = []
    for item, item_log in zip(items, logs, strict=True):
        try:
            answers.append(answer_picture(item, top_k, item_log))
        except RequestError as error:
            item_log["outcome"] = error.code
            answers.append(error.answer)
    log["pictures"] = logs
    return {"predictions": answers}


def answer_picture(item: Any, top_k: int | None, log: dict) -> dict:
    """Prediction for a picture: its bytes, its base64 text or the error that its download ended with."""
    if isinstance(item, Exception):
        raise item
    data = item if isinstance(item, bytes) else decode_base64(item)
    start = time.monotonic()
    pixels = read_picture(data, MODEL.size, log)
    log["decode_ms"] = _ms(start)
    start = time.monotonic()
    answer = predict(pixels, top_k)
    log.update(inference_ms=_ms(start), top_class=next(iter(answer["prediction"])))
    return answer


def _ms(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)


MODEL = load_model(Path(os.environ.get("MODEL_FILE") or Path(__file__).with_name("top_10_dog_breeds.tflite")))
