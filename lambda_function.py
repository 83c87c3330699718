"""Dog breeds on AWS Lambda: says which breed a picture shows.

Reads   top_10_dog_breeds.tflite beside this file, or the file that the variable MODEL_FILE names, once, at start.
Takes   {"url": U}, {"image": base64}, {"urls": [...]} or {"images": [...]}, with "top_k" if wanted, from a direct
        invocation or over HTTP (API Gateway, function URL, Application Load Balancer), where the body may also be the
        picture itself and GET takes ?url=...&top_k=...
Gives   {"prediction": {breed: probability}, "known": true}, best first; for lists {"predictions": [one for each]};
        or {"error": {"code", "message"}}. Prints one line of JSON a request, without pictures and without URLs.

Give the function 1024 MB and 15 s. It stands alone: the image holds this file and the model.
"""

import base64
import contextlib
import ctypes
import hashlib
import http
import importlib
import io
import json
import logging
import math
import os
import re
import socket
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_plus, urljoin, urlsplit

import numpy as np
from PIL import Image, ImageOps, WebPImagePlugin  # noqa: F401  without it Pillow would import all its formats for WebP

MAX_PICTURES = 10  # in a list
MAX_BYTES = 10_000_000  # of a picture
MAX_PIXELS = 50_000_000  # of a picture, checked before it is decoded
MAX_MEMORY = 240_000_000  # bytes that decoding a picture may take: 50 megapixels of plain RGB, and a little
MAX_SCANS = 10  # of a progressive JPEG with MAX_PIXELS, what encoders write; smaller ones may have more
MAX_READS = 5_000  # of a picture's file: Pillow walks through its parts in Python, and there can be millions
MAX_SECONDS = 8  # for the downloads of a request, all together
MAX_REDIRECTS = 3
MAX_URL = 2048  # characters
PORTS = {"http": 80, "https": 443}
HEADERS = {
    "User-Agent": "dog-breeds/1.0 (classifies a picture that its user named)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}
PATHS = ("/", "/predict")
METHODS = ("GET", "HEAD", "OPTIONS", "POST")
FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "WEBP": b"RIFF", "GIF": b"GIF8", "BMP": b"BM"}
STATUS = {  # HTTP status of each error code
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
    """Why there is no prediction: RequestError(a code of STATUS, a message for the person who asked)."""


# ---------------------------------------------------------------- model


class Model(NamedTuple):
    """A loaded model file."""

    interpreter: Any
    classes: list[str]  # in the order of the probabilities
    size: int  # of the input: pixels a side
    share: float  # of both sides of a photo, around its centre: what the model is shown
    threshold: float  # similarity from which a breed counts as known
    tensors: list[int]  # indices of pixels, probabilities and similarity


def load_model(path: Path) -> Model:
    """Load a .tflite file and the facts in the zip archive at its end; ValueError if the two do not make a model."""
    try:
        with zipfile.ZipFile(path) as archive:
            labels = archive.read("labels.txt").decode().splitlines()
            facts = json.loads(archive.read("metadata.json"))
            length = min(entry.header_offset for entry in archive.infolist())
        classes, size, threshold = facts["classes"], facts["input"]["height"], facts["unknown_rule"]["threshold"]
        share = facts["photo_share"]
        digest = facts.get("model_sha256")
        if digest and digest != hashlib.sha256(path.read_bytes()[:length]).hexdigest():
            raise ValueError("its bytes have changed since it was made")
        if labels != classes or len(set(classes)) < len(classes):
            raise ValueError("labels.txt does not match the classes of metadata.json")
        # Only one of the two runtimes may be in a process, and no TensorFlow beside it: together they crash.
        default = "ai_edge_litert" if find_spec("ai_edge_litert") else "tflite_runtime"
        runtime = importlib.import_module(os.environ.get("DOG_BREEDS_RUNTIME", default) + ".interpreter")
        interpreter = runtime.Interpreter(str(path), num_threads=cpus())
        interpreter.allocate_tensors()
        details = interpreter.get_input_details() + interpreter.get_output_details()
        tensors = {tuple(detail["shape"].tolist()): detail["index"] for detail in details}
        shapes = [(1, size, size, 3), (1, len(classes)), (1, 1)]
        kinds = {detail["dtype"] for detail in details}
        if len(details) != len(tensors) or set(tensors) != set(shapes) or kinds != {np.float32}:
            raise ValueError(f"its tensors have the shapes {sorted(tensors)}, not float32 {shapes}")
        if not 0 < share <= 1:
            raise ValueError(f"its photo_share is {share}")
        return Model(interpreter, classes, size, share, float(threshold), [tensors[shape] for shape in shapes])
    except (zipfile.BadZipFile, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path.name} is damaged, or was not made by convert_model.py: {error}") from error


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def classify(pixels: np.ndarray, top_k: int | None) -> dict:
    """Prediction for the pixels of a picture, float32 (size, size, 3) in 0..255."""
    interpreter, (inputs, probabilities, similarity) = MODEL.interpreter, MODEL.tensors
    interpreter.set_tensor(inputs, pixels[None])
    interpreter.invoke()
    values = interpreter.get_tensor(probabilities)[0].tolist()
    ranking = sorted(zip(MODEL.classes, values, strict=True), key=lambda item: -item[1])[:top_k]
    known = interpreter.get_tensor(similarity).item() >= MODEL.threshold
    return {"prediction": {breed: round(probability, 6) for breed, probability in ranking}, "known": known}


# ---------------------------------------------------------------- pictures


def read_picture(data: bytes, size: int, share: float, log: dict) -> np.ndarray:
    """Pixels of a picture as the model takes them, float32 RGB (size, size, 3) in 0..255, as training prepares them."""
    log["bytes"] = len(data)
    if len(data) > MAX_BYTES:
        raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
    if not data.startswith(tuple(FORMATS.values())):
        raise RequestError("unsupported_type", f"the picture is none of {', '.join(FORMATS)}")
    try:
        with limited_memory():
            image = Image.open(CountedReads(data), formats=list(FORMATS))
            log["size"] = image.size
            check_costs(image, data)
            needed = math.ceil(size / share)
            image.draft(None, (needed, needed))  # a large JPEG is decoded at a smaller scale
            image.load()
            turn_upright(image)
            left, top = image.width * (1 - share) / 2, image.height * (1 - share) / 2
            box = (left, top, image.width - left, image.height - top)
            image = opaque(image).resize((size, size), Image.Resampling.BILINEAR, box)
            return np.asarray(image.convert("RGB"), np.float32)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise RequestError("too_large", "the picture needs too much memory; send it smaller, or as JPEG") from None
    except Exception as error:  # Pillow raises nearly anything for a damaged file
        log["detail"] = repr(error)[:200]
        raise RequestError("invalid_image", "the picture is damaged, incomplete or too large to decode") from None


def check_costs(image: Image.Image, data: bytes) -> None:
    """RequestError if an opened picture is going to be too much work."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise RequestError("too_large", f"the picture has more than {MAX_PIXELS:,} pixels")
    if image.info.get("progressive"):  # each scan visits all pixels, and an empty one has a dozen bytes
        start = image.fp.tell()  # behind the header of the first scan
        scans = 1 + data.count(b"\xff\xda", start, data.find(b"\xff\xd9", start))
        if scans * pixels > MAX_SCANS * MAX_PIXELS:
            raise RequestError("too_large", "the picture has too many scans; send it as a plain JPEG")


def turn_upright(image: Image.Image) -> None:
    """Turn a picture in place as its EXIF data say; damaged data say nothing."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        return


def opaque(image: Image.Image) -> Image.Image:
    """Any picture as RGB or L, transparency over white. Works in strips: whole, it would take 16 bytes a pixel."""
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, 256):
        strip = image.crop((0, top, image.width, min(top + 256, image.height)))
        if strip.mode.startswith("I;16"):  # the upper byte, as Pillow itself reads 16-bit RGB
            strip = strip.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        whole.paste(strip.convert("RGB"), (0, top))
    return whole


class CountedReads(io.BytesIO):
    """A file in memory that fails after MAX_READS reads, before a file of a million parts costs seconds."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as usual; OSError once there were too many reads."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise OSError("too many parts")
        return super().read(size)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Within this the process gets at most MAX_MEMORY bytes more than it has; past that, a MemoryError.

    Not every picture says what it will cost: WebP takes 16 bytes a pixel, and 60 kB of EXIF data can take 300 MB.
    Works on Linux, as Lambda is, and does nothing elsewhere.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MAX_MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def decode_base64(text: Any, name: str) -> bytes:
    """Bytes of the field of this name, which holds base64 text or a data URL."""
    try:
        text = re.sub("^data:[^,]*,", "", text)
        return base64.b64decode("".join(text.split()) if "\n" in text else text, validate=True)
    except (TypeError, ValueError):
        raise RequestError("invalid_request", f"{name} must be base64 text") from None


# ---------------------------------------------------------------- downloads

LATE = ("download_timeout", f"the download took more than {MAX_SECONDS} seconds")


def download_all(urls: list) -> list[bytes | Exception]:
    """Download side by side. What is not there after MAX_SECONDS is given up, whatever it is waiting for."""
    deadline, sockets = time.monotonic() + MAX_SECONDS, []
    pool = ThreadPoolExecutor(len(urls))
    futures = [pool.submit(download, url, deadline, sockets) for url in urls]
    pool.shutdown(wait=False)
    done, _ = wait(futures, MAX_SECONDS)
    for sock in sockets:  # ends the threads that still read: a server that trickles outlasts all other time-outs
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    return [(future.exception() or future.result()) if future in done else RequestError(*LATE) for future in futures]


def download(url: Any, deadline: float, sockets: list) -> bytes:
    """Bytes of the picture at a URL on the public internet. Appends the sockets that it opens to `sockets`."""
    from AntiSSRF import AntiSSRFError  # imported here, with requests: 0.2 s that other requests need not wait

    try:
        with public_session(deadline, sockets) as session:
            for _ in range(MAX_REDIRECTS + 1):
                request = checked_request(url)
                seconds = max(deadline - time.monotonic(), 0.001)
                # Straight to the adapter: the session would read the body of a redirect without limit, keep cookies,
                # and use proxies of the environment.
                with session.get_adapter(request.url).send(request, stream=True, timeout=seconds) as response:
                    if not response.is_redirect:
                        return read_body(response)
                    url = urljoin(request.url, session.get_redirect_target(response))
        raise RequestError("download_failed", f"the URL leads through more than {MAX_REDIRECTS} redirects")
    except (AntiSSRFError, socket.gaierror, UnicodeError):  # alike, so that nobody learns which names exist inside
        raise RequestError("url_refused", "the host of the URL is not found, or not public") from None
    except (OSError, ValueError):
        if time.monotonic() > deadline:
            raise RequestError(*LATE) from None
        raise RequestError("download_failed", "the server of the URL did not answer as it should") from None


def checked_request(url: Any) -> Any:
    """A GET request for a plain http or https URL: without credentials, on the default port; else RequestError."""
    from requests import Request

    try:
        if len(url) > MAX_URL or not url.isprintable() or re.search(r"[ \\]", url):
            raise ValueError
        request = Request("GET", url, HEADERS).prepare()
        for parts in (urlsplit(url), urlsplit(request.url)):  # requests repairs odd URLs: before and after must do
            if "@" in parts.netloc or parts.port not in (None, PORTS[parts.scheme]):
                raise ValueError
        return request
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        message = f"the URL must be http or https, at most {MAX_URL} characters, without user name and special port"
        raise RequestError("url_refused", message) from None


def public_session(deadline: float, sockets: list) -> Any:
    """A requests session for public addresses only. Collects its sockets, and opens none after the deadline.

    AntiSSRF resolves a name, refuses it unless all its addresses are public, and connects to one of these addresses.
    """
    from AntiSSRF import AntiSSRFPolicy, PolicyConfigOptions

    policy = AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    policy.add_denied_addresses(["::/96", "::ffff:0:0:0/96"])  # hold IPv4 addresses, and are missing in its list
    policy.allow_plain_text_http = True
    policy.add_xff_header = False  # it would make the request a proxy's
    session = policy.get_antissrf_session()

    def watched(pool: type) -> type:
        class Connection(pool.ConnectionCls):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)
                if time.monotonic() > deadline:
                    raise TimeoutError

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    for adapter in session.adapters.values():
        pools = adapter.poolmanager.pool_classes_by_scheme
        adapter.poolmanager.pool_classes_by_scheme = {scheme: watched(pool) for scheme, pool in pools.items()}
    return session


def read_body(response: Any) -> bytes:
    """Body of a plain answer of at most MAX_BYTES."""
    if response.status_code != 200:
        raise RequestError("download_failed", f"the server of the URL answered with status {response.status_code}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":  # could unpack to any size
        raise RequestError("download_failed", "the server of the URL sent a compressed answer, though asked not to")
    body = bytearray()
    for block in response.iter_content(2**16):
        body += block
        if len(body) > MAX_BYTES:
            raise RequestError("too_large", f"the picture has more than {MAX_BYTES:,} bytes")
    return bytes(body)


# ---------------------------------------------------------------- events


class HttpRequest(NamedTuple):
    """What matters of an HTTP event."""

    service: str  # the form of event and response: "alb", "2.0" (HTTP API, function URL) or "1.0" (REST API)
    method: str
    path: str
    content_type: str
    query: dict[str, str]
    body: Any
    is_base64: bool
    lists: bool  # a load balancer that wants headers as lists


def http_request(event: Any) -> HttpRequest | None:
    """The HTTP request in an event; None if it is a direct invocation."""
    event = as_dict(event)
    context = as_dict(event.get("requestContext"))
    if not context and "httpMethod" not in event:
        return None
    v2 = as_dict(context.get("http"))
    service = "alb" if "elb" in context else "2.0" if v2 else "1.0"
    lists = service == "alb" and "multiValueHeaders" in event
    query = as_dict(event.get("multiValueQueryStringParameters" if lists else "queryStringParameters"))
    headers = as_dict(event.get("multiValueHeaders" if lists else "headers"))
    if lists:
        query = {key: values[-1] for key, values in query.items() if isinstance(values, list) and values}
        headers = {key: values[-1] for key, values in headers.items() if isinstance(values, list) and values}
    if service == "alb":  # it passes the query as it came
        query = {unquote_plus(key): unquote_plus(str(value)) for key, value in query.items()}
    path = str(event.get("rawPath") if v2 else event.get("path")).strip("/")
    stage = context.get("stage")  # HTTP APIs put it in front of the path
    if isinstance(stage, str) and path.split("/")[0] == stage:
        path = path[len(stage) :].strip("/")
    return HttpRequest(
        service=service,
        method=str(v2.get("method") if v2 else event.get("httpMethod")).upper(),
        path="/" + path,
        content_type=str({key.lower(): value for key, value in headers.items()}.get("content-type", "")),
        query=query,
        body=event.get("body") or "",
        is_base64=event.get("isBase64Encoded") is True,
        lists=lists,
    )


def as_dict(value: Any) -> dict:
    """The value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def fields_of(request: HttpRequest) -> Any:
    """The direct invocation that an HTTP request stands for; None if it asks for no work."""
    if request.path not in PATHS:
        raise RequestError("not_found", f"there is nothing at this path; use {' or '.join(PATHS)}")
    if request.method not in METHODS:
        raise RequestError("method_not_allowed", f"use one of {', '.join(METHODS)}")
    if request.method in ("HEAD", "OPTIONS"):
        return None
    fields = {key: value for key, value in request.query.items() if key in ("url", "top_k")}
    with contextlib.suppress(TypeError, ValueError):
        fields["top_k"] = int(fields.get("top_k"))
    kind = request.content_type.partition(";")[0].strip().lower()
    if request.method == "GET":
        return fields
    if kind.startswith("image/"):
        if not request.is_base64:
            raise RequestError("unsupported_type", "the gateway does not pass image/* as binary; send base64 in JSON")
        return {**fields, "image": request.body}
    if kind not in ("application/json", ""):
        raise RequestError("unsupported_type", "the Content-Type must be application/json or image/...")
    try:
        return json.loads(decode_base64(request.body, "the body") if request.is_base64 else request.body)
    except (TypeError, ValueError, RecursionError):
        raise RequestError("invalid_request", "the body is not JSON") from None


def http_response(request: HttpRequest, status: int, answer: dict | None) -> dict:
    """The response to an HTTP request, in the form that its service expects."""
    headers = {"Content-Type": "application/json"}
    if request.method == "OPTIONS" or status == STATUS["method_not_allowed"]:
        headers["Allow"] = ", ".join(METHODS)
    body = json.dumps(answer) if answer and request.method != "HEAD" else ""
    response = {"statusCode": status, "headers": headers, "body": body, "isBase64Encoded": False}
    if request.service == "alb":
        response["statusDescription"] = f"{status} {http.HTTPStatus(status).phrase}"
    if request.lists:
        response["multiValueHeaders"] = {key: [value] for key, value in response.pop("headers").items()}
    return response


# ---------------------------------------------------------------- handler


def lambda_handler(event: Any, context: Any = None) -> dict:
    """Answer an event. What is wrong with a request is an answer too; a fault of ours is logged and raised."""
    log = {"request_id": getattr(context, "aws_request_id", None), "event": "direct"}
    request = http_request(event)
    try:
        if request:
            log["event"] = request.service
            event = fields_of(request)
        answer = None if request and event is None else answer_fields(event, log)
    except RequestError as error:
        answer = error_answer(error)
    except Exception:
        log["traceback"] = traceback.format_exc()
        answer = error_answer(RequestError("internal_error", "the service failed; the fault is ours and is logged"))
        if not request:
            raise
    finally:
        log["outcome"] = answer["error"]["code"] if answer and "error" in answer else "ok"
        print(json.dumps(log), flush=True)
    return http_response(request, STATUS.get(log["outcome"], 200), answer) if request else answer


def answer_fields(fields: Any, log: dict) -> dict:
    """The answer to the fields of a request."""
    if not isinstance(fields, dict):
        raise RequestError("invalid_request", "the request must be a JSON object")
    sources = [name for name in ("url", "image", "urls", "images") if name in fields]
    if len(sources) != 1:
        raise RequestError("invalid_request", "the request must have one of url, image, urls and images")
    source, top_k = sources[0], fields.get("top_k")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= len(MODEL.classes)):
        raise RequestError("invalid_request", f"top_k must be a whole number from 1 to {len(MODEL.classes)}")
    log["source"] = source
    items = fields[source] if source.endswith("s") else [fields[source]]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_PICTURES:
        raise RequestError("invalid_request", f"{source} must be a list of 1 to {MAX_PICTURES} items")
    if source.startswith("url"):
        start = time.monotonic()
        items = download_all(items)
        log["download_ms"] = milliseconds_since(start)
    if not source.endswith("s"):
        return answer_picture(items[0], top_k, log)
    log["pictures"] = entries = [{} for _ in items]
    return {"predictions": [answer_picture(item, top_k, entry) for item, entry in zip(items, entries, strict=True)]}


def answer_picture(item: Any, top_k: int | None, log: dict) -> dict:
    """The answer to a picture: to its base64 text, its bytes, or the exception that its download ended with."""
    try:
        if isinstance(item, Exception):
            raise item
        start = time.monotonic()
        data = item if isinstance(item, bytes) else decode_base64(item, "image")
        pixels = read_picture(data, MODEL.size, MODEL.share, log)
        log["decode_ms"] = milliseconds_since(start)
        start = time.monotonic()
        answer = classify(pixels, top_k)
        log.update(inference_ms=milliseconds_since(start), top_class=next(iter(answer["prediction"])), outcome="ok")
        return answer
    except RequestError as error:
        log["outcome"] = error.args[0]
        return error_answer(error)


def error_answer(error: RequestError) -> dict:
    """The answer that takes the place of a prediction."""
    return {"error": {"code": error.args[0], "message": error.args[1]}}


def milliseconds_since(start: float) -> float:
    """Milliseconds since a time of time.monotonic()."""
    return round((time.monotonic() - start) * 1000, 1)


Image.preinit()  # Pillow's usual formats, which the first picture would load otherwise
warnings.filterwarnings("ignore", module="PIL")  # remarks on odd pictures, a line for each odd tag
logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # remarks on odd servers, with their names
MODEL = load_model(Path(os.environ.get("MODEL_FILE") or Path(__file__).with_name("top_10_dog_breeds.tflite")))
if sys.platform == "linux":
    # Freed memory is to return, so that limited_memory counts right: blocks of 128 kB and more always get pages of
    # their own (M_MMAP_THRESHOLD), and there is one heap (M_ARENA_MAX), else a full one is left for another.
    ctypes.CDLL(None).mallopt(-3, 2**17)
    ctypes.CDLL(None).mallopt(-8, 1)
