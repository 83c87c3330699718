"""Read the fields of an HTTP request from its query and its body.

The content of a body decides its type, because clients often send a wrong Content-Type or none.
"""

import base64
import contextlib
import json
import re
from typing import Any
from urllib.parse import unquote_plus

from dog_breeds.serving.file_types import MANGLED, starts_as_image
from dog_breeds.serving.http_events import NO_WORK, HttpRequest, check_route
from dog_breeds.serving.limits import RequestError

SOURCES = ("url", "urls", "image", "images")
FIELDS = (*SOURCES, "top_k", "explain")  # of a request over HTTP
MAX_FORM_FIELDS = 50
# Percent-encoded characters of base64 and data URLs, as forms and addresses contain them
ESCAPES = {"%3D": "=", "%2B": "+", "%2F": "/", "%3A": ":", "%3B": ";", "%2C": ","}
ESCAPES |= {"%0A": "\n", "%0D": "\r", "%20": " "}
# Strings, because `re` then compiles them at their first use and not during a cold start
DATA_URL = r"(?i)[\s\ufeff]*data:[^,]{0,1000},"
URL_SAFE = str.maketrans("-_", "+/")
BINARY = "[\0\x80-\x9f]"
PART_END_OF_HEAD = rb"\r?\n\r?\n"
PART_NAME = rb'(?i)[;\s]name="?([^";\r\n]*)'
PART_FILE = rb'(?i)[;\s]filename\*?="?([^";\r\n]*)'


def fields_of(request: HttpRequest) -> Any:
    """Return the fields of an HTTP request, in the form of a direct invocation.

    The result is any JSON value, in which an image may also be bytes. It is None for a method of
    NO_WORK. If query and body have the same field, the body's counts.
    """
    check_route(request)
    if request.method in NO_WORK:
        return None
    named = [name for name in ("url", "top_k", "explain") if name in request.query]
    query = typed({name: request.query[name] for name in named})
    if request.method == "GET" or (not request.body and "url" in query):
        return query
    fields = body_fields(request)
    if not isinstance(fields, dict):
        return fields
    if unknown := sorted(fields.keys() - set(FIELDS)):
        names = ", ".join(name[:30] for name in unknown[:3])
        raise RequestError(
            "invalid_request", f"unknown field: {names}; the fields are {', '.join(FIELDS)}"
        )
    if fields.keys() & set(SOURCES):
        query.pop("url", None)
    return query | fields


def typed(texts: dict[str, Any]) -> dict[str, Any]:
    """Convert the texts of a query or form to numbers and truth values where fields need them."""
    fields = dict(texts)
    if "top_k" in fields:
        with contextlib.suppress(TypeError, ValueError):
            fields["top_k"] = int(fields["top_k"])
    if "explain" in fields:
        fields["explain"] = {"true": True, "false": False}.get(fields["explain"], fields["explain"])
    return fields


def body_fields(request: HttpRequest) -> Any:
    """Return the fields in the body of a request, which are any JSON value.

    Raises RequestError if the body has no fields.
    """
    if request.is_base64:
        data = decode_base64(request.body, "the body")
    elif isinstance(request.body, str):
        data = bytes_of(request.body)
    else:
        raise RequestError("invalid_request", "the body is not JSON")
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise RequestError(
            "invalid_request", "the body is empty; send an image, or JSON with url or image"
        )
    media_type = request.content_type.partition(";")[0].strip().lower()
    if starts_as_image(data):
        if b"\xef\xbf\xbd" in data[:4096] and not request.is_base64:
            raise RequestError(*MANGLED)
        return {"image": data}
    if boundary := boundary_of(data, request.content_type):
        return multipart_fields(data, boundary)
    text = text_of(data)
    if text is None:  # another type of file; the image reader's message names it
        return {"image": data}
    if text[:1] in ("{", "[", '"'):
        return parse_json(text)
    if image := base64_image(text):
        return {"image": image}
    if media_type == "application/json" or media_type.endswith("+json"):
        return parse_json(text)
    if re.match("https?://", text, re.IGNORECASE):
        return {"url": text}
    if media_type == "application/x-www-form-urlencoded" or re.match("(url|image)=", text):
        return form_fields(text)
    return {"image": data}


def bytes_of(text: str) -> bytes:
    """Return the bytes of a body that a gateway took for text.

    Some gateways, such as serverless-offline, turn each byte into one character. NUL and C1 control
    characters show this, because texts do not contain them.
    """
    if re.search(BINARY, text):
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode("latin-1")
    return text.encode(errors="replace")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Its strings may contain raw line breaks."""
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        detail = f" ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError):  # a number with too many digits, too many brackets
        detail = ""
    raise RequestError("invalid_request", f"the body is not JSON{detail}")


def text_of(data: bytes) -> str | None:
    """Return data as text without a byte order mark and blanks around it, or None if they are not
    text.
    """
    try:
        text = data.decode(json.detect_encoding(data))  # UTF-8, or what PowerShell writes
    except UnicodeDecodeError:
        return None
    return None if "\0" in text[:1000] else text.strip("\ufeff \t\r\n\v\f")


# --- Forms ----------------------------------------------------------------------------------------


def form_fields(text: str) -> dict[str, Any]:
    """Return the fields of an HTML form, application/x-www-form-urlencoded."""
    values: dict[str, list] = {}
    for pair in text.split("&", MAX_FORM_FIELDS):
        name, _, value = pair.partition("=")
        name = unquote_plus(name[:100])
        # An image is base64, in which a plus is no blank; decode_base64 reads it
        values.setdefault(name, []).append(
            value if name.startswith("image") else unquote_plus(value[:100_000])
        )
    return gathered(values)


def boundary_of(data: bytes, content_type: str) -> bytes | None:
    """Return the boundary between the parts of a multipart form, or None for other data.

    The first line of the form is the boundary. The header may name another boundary or none, if a
    user wrote it by hand.
    """
    if data.startswith(b"--") and b"content-disposition: form-data" in data[:1000].lower():
        return data[:200].partition(b"\n")[0].rstrip()
    named = re.match('multipart/form-data.*boundary="?([^";,]+)', content_type, re.IGNORECASE)
    boundary = b"--" + named[1].strip().encode(errors="replace") if named else b""
    return boundary if boundary and boundary in data else None


def multipart_fields(data: bytes, boundary: bytes) -> dict[str, Any]:
    """Return the fields of a multipart form. Each file in it counts as an image."""
    values: dict[str, list] = {}
    for part in data.split(boundary, MAX_FORM_FIELDS)[1:]:
        end = re.search(PART_END_OF_HEAD, part[:10_000])
        head = part[: end.start()] if end else b""
        name = re.search(PART_NAME, head)
        if not end or not name:
            continue  # the two hyphens after the last boundary
        file = re.search(PART_FILE, head)
        content = part[end.end() :].removesuffix(b"\n").removesuffix(b"\r")
        if file or starts_as_image(content):
            # A browser sends an empty file without a name if the user chose no file
            if content or (file and file[1]):
                text = text_of(content)
                image = base64_image(text) if text else None
                values.setdefault("image", []).append(image or content)
        else:
            field = name[1].decode(errors="replace")
            values.setdefault(field, []).append(text_of(content) or "")
    return gathered(values)


def gathered(values: dict[str, list]) -> dict[str, Any]:
    """Return the fields of a form. Several values of "url" or "image" become a list."""
    fields = {}
    for name, items in values.items():
        name = name.removesuffix("[]")
        if name in ("urls", "images"):
            fields[name] = items
        elif name in ("url", "image") and len(items) > 1:
            fields[name + "s"] = items
        else:
            fields[name] = items[-1]
    return typed(fields)


# --- Base64 ---------------------------------------------------------------------------------------


def base64_image(text: str) -> bytes | None:
    """Return the image in a base64 text or data URL, or None if the text has none."""
    try:
        data = decode_base64(text, "the body")
    except RequestError:
        return None
    return data if starts_as_image(data) else None


def decode_base64(text: Any, name: str) -> bytes:
    """Return the bytes of a base64 text or data URL. `name` is the field's name in messages.

    Like other decoders, this one accepts missing padding, the URL-safe alphabet, white space and
    percent-encoding. Raises RequestError for other characters and for a wrong length.
    """
    hint = ""
    try:
        if "%" in text:
            for escape, character in ESCAPES.items():
                text = text.replace(escape, character).replace(escape.lower(), character)
        head = re.match(DATA_URL, text)
        text = "".join(text[head.end() if head else 0 :].split()).strip("\ufeff")
        if not text.isascii():
            raise ValueError
        text = text.translate(URL_SAFE).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (AttributeError, TypeError, ValueError):
        if isinstance(text, str) and re.match("https?:", text):
            hint = "; an address belongs in the field url"
        elif isinstance(text, str) and text.startswith(("b'", 'b"')):
            hint = "; leave out the b and the quotes that Python prints"
        raise RequestError("invalid_request", f"{name} must be base64 text{hint}") from None
