"""Bodies as usual clients send them, base64 as usual encoders write it, and what is no image."""

import base64
import gzip
import json
import quopri
import re
import urllib.parse

import pytest
import requests
from handler_fixtures import local_gateway
from odd_images import BREED, JPEG, TEXT, drawn_image, saved
from services import SERVICES, function_url, http_api, rest

FORM = "application/x-www-form-urlencoded"
DOG = {"prediction": {BREED: 1.0}, "known": True}
PNG = saved(drawn_image(), format="PNG")
ADDRESS = "http://10.0.0.1/dog.jpg"


def encoded(data: bytes | str) -> str:
    """A body as gateways hand on what is no text to them."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def sent(answered) -> dict:
    """The answer in the body of a response."""
    return json.loads(answered.answer["body"])


# --- Real clients through the gateway -------------------------------------------------------------


def test_bodies_of_real_clients(stack):
    wrapped = "\n".join(re.findall(".{1,76}", TEXT))
    headers = {"Content-Type": "application/octet-stream"}
    text, form = {"Content-Type": "text/plain;charset=UTF-8"}, {"Content-Type": FORM}
    by_hand = {"Content-Type": "multipart/form-data"}
    multipart = requests.Request("POST", "http://a/", files={"file": JPEG}).prepare().body
    bodies = {
        "requests.post(url, data=file)": {"data": JPEG},
        "octet-stream": {"data": JPEG, "headers": headers},
        "curl --data-binary": {"data": JPEG, "headers": form},
        "a photo called JSON": {"data": JPEG, "headers": {"Content-Type": "application/pdf"}},
        "fetch": {"data": json.dumps({"image": TEXT}), "headers": text},
        "fetch of a data URL": {"data": "data:image/jpeg;base64," + TEXT, "headers": text},
        "base64 text": {"data": wrapped, "headers": text},
        "JSON after a byte order mark": {
            "data": b"\xef\xbb\xbf" + json.dumps({"image": TEXT}).encode()
        },
        "PowerShell": {"data": json.dumps({"image": TEXT}).encode("utf-16")},
        "JSON with raw line breaks": {"data": '{"image": "' + wrapped + '"}'},
        "curl -d": {"data": json.dumps({"image": TEXT}), "headers": form},
        "curl -F file=@": {"files": {"file": ("dog.jpg", JPEG)}},
        "curl -F with type": {"files": {"photo": ("dog.jpg", JPEG, "image/jpeg")}},
        "base64 in a form": {"files": {"image": (None, TEXT)}},
        "a file of base64": {"files": {"image": ("dog.txt", TEXT)}},
        "a header by hand": {"data": multipart, "headers": by_hand},
        "an HTML form": {"data": {"image": TEXT}},
        "an HTML form, not encoded": {"data": "image=" + TEXT, "headers": form},
        "JSON:API": {
            "data": json.dumps({"image": TEXT}),
            "headers": {"Content-Type": "application/vnd.api+json"},
        },
    }
    for payload in ("2.0", "1.0"):
        with local_gateway(stack.endpoint, payload) as address:
            for name, body in bodies.items():
                answer = requests.post(address + "/dogs", params={"top_k": 1}, **body).json()
                assert answer == DOG, f"{name}, payload {payload}: {answer}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_content_decides_in_every_service(ask, service):
    for content_type in (
        "",
        "application/json",
        "text/plain",
        FORM,
        "image/x-unknown",
        "multipart/form-data",
        ";;",
    ):
        for body in (JPEG, PNG, json.dumps({"image": TEXT, "explain": False}), TEXT):
            event = service("POST", "/", {"top_k": "1"}, encoded(body), content_type, True)
            assert sent(ask(event)) == DOG, content_type
        for body in (json.dumps({"image": TEXT}), TEXT, "data:;base64," + TEXT):
            event = service("POST", "/", {"top_k": "1"}, body, content_type)
            assert sent(ask(event)) == DOG, content_type


def parts(*contents: tuple[str, bytes], line: bytes = b"\r\n", end: bytes = b"--") -> bytes:
    """A multipart form of parts, each with the rest of its first header."""
    body = b""
    for head, content in contents:
        body += b"--x-1" + line + b"Content-Disposition: form-data; " + head.encode() + line
        body += line + content + line
    return body + b"--x-1" + end + line


def test_forms_of_all_kinds(ask):
    def ask_form(body: bytes, content_type: str = "multipart/form-data; boundary=x-1") -> dict:
        return sent(ask(function_url("POST", "/", {}, encoded(body), content_type, True)))

    photo = ('name="file"; filename="a.jpg"', JPEG)
    one = ('name="top_k"', b"1")
    assert ask_form(parts(photo, one)) == ask_form(parts(one, photo)) == DOG
    assert ask_form(parts(photo, one), "") == ask_form(parts(photo, one), "text/plain") == DOG
    assert ask_form(parts(photo, one), "multipart/form-data; boundary=wrong") == DOG
    assert (
        ask_form(b"A preamble\r\n" + parts(photo, one), 'multipart/form-data; boundary="x-1"')
        == DOG
    )
    assert ask_form(parts(photo, one, line=b"\n")) == ask_form(parts(photo, one, end=b"")) == DOG
    assert ask_form(parts(("name=file; filename*=UTF-8''%C3%A4.jpg", JPEG), one)) == DOG
    empty = ('name="url_file"; filename=""', b"")
    assert ask_form(parts(photo, empty, one)) == DOG
    several = ask_form(parts(photo, ('name="images[]"; filename="b.png"', PNG), one))
    assert several == {"predictions": [DOG, DOG]}
    assert ask_form(parts(('name="url"', ADDRESS.encode())))["error"]["code"] == "url_refused"
    two = parts(*[('name="url"', ADDRESS.encode())] * 2)
    assert len(ask_form(two)["predictions"]) == 2
    html = f"url={urllib.parse.quote(ADDRESS)}&top_k=3".encode()
    assert ask_form(html, FORM)["error"]["code"] == "url_refused"
    assert ask_form(ADDRESS.encode(), "text/plain")["error"]["code"] == "url_refused"
    for body, message in (
        (parts(('name="csrf"', b"1"), photo), "unknown field: csrf;"),
        (parts(('name="explain"', b"yes"), photo), "explain must be true or false"),
        (parts(photo, ('name="top_k"', b"all")), "top_k must be a whole number"),
        (parts(one), "the request must have one of url, image, urls, images"),
        (parts(), "the request must have one of url, image, urls, images"),
        (parts(('name="file"; filename="a.jpg"', b"")), "the image is empty"),
    ):
        assert message in ask_form(body)["error"]["message"], body[:200]


def test_a_gateway_that_takes_bytes_for_text(ask):
    """Without binary media types a REST API replaces bytes; other gateways make characters of
    them.
    """
    photo = ('name="file"; filename="a.jpg"', JPEG)
    form = "multipart/form-data; boundary=x-1"
    for body, content_type in ((JPEG, "image/jpeg"), (PNG, "image/png"), (parts(photo), form)):
        event = rest("POST", "/", {"top_k": "1"}, body.decode("latin-1"), content_type)
        assert sent(ask(event)) == DOG
        event = rest("POST", "/", {}, body.decode(errors="replace"), content_type)
        error = sent(ask(event))["error"]
        assert error["code"] == "unsupported_type"
        assert "changed into text on its way" in error["message"]


SIZE = 4_000_000
COSTLY = {  # bodies with millions of what a careless reader goes through one by one
    "escapes": "%" * SIZE,
    "signs of padding": "%3D" * (SIZE // 3),
    "blanks": "A " * (SIZE // 2),
    "fields": "url=" + "&url=" * (SIZE // 5),
    "boundaries": "--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + "--x" * (SIZE // 3),
    "names": "--x\r\nContent-Disposition: form-data;" + ' name="' * (SIZE // 7),
    "brackets": "[" * SIZE,
    "comments": "<!---->" * (SIZE // 7),
    "data URLs": "data:" * (SIZE // 5),
    "controls": "\x80" * (SIZE // 2),
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_body_costs_much_more_than_a_plain_one(ask, name):
    plain = ask(function_url("POST", "/", {}, json.dumps({"image": "A" * SIZE}))).seconds
    for content_type in ("", FORM, "multipart/form-data; boundary=x"):
        answered = ask(function_url("POST", "/", {}, encoded(COSTLY[name]), content_type, True))
        assert answered.answer["statusCode"] in (400, 415)
        assert answered.seconds < max(1, 10 * plain) and answered.peak_mb < 200


# --- Query and body -------------------------------------------------------------------------------


def test_query_and_json_body_are_taken_together_and_the_body_wins(ask):
    def ask_json(query: dict, fields: dict) -> dict:
        return sent(ask(http_api("POST", "/", query, json.dumps(fields), "application/json")))

    image = {"image": TEXT}
    assert ask_json({"top_k": "1"}, image) == DOG
    assert len(ask_json({"top_k": "1"}, image | {"top_k": 3})["prediction"]) == 3
    assert len(ask_json({"top_k": "1"}, image | {"top_k": None})["prediction"]) == 10
    assert "cannot explain" in ask_json({"explain": "true"}, image)["error"]["message"]
    assert ask_json({"explain": "true", "top_k": "1"}, image | {"explain": False}) == DOG
    assert ask_json({"url": ADDRESS, "top_k": "1", "utm_source": "a"}, image) == DOG
    assert ask_json({"url": ADDRESS}, {"top_k": 1})["error"]["code"] == "url_refused"
    empty = ask(http_api("POST", "/", {"url": ADDRESS}, None, "application/json"))
    assert sent(empty)["error"]["code"] == "url_refused"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"topk": 3}, "topk"),
        ({"Image": TEXT}, "Image"),
        ({"top-k": 1, "a": 1, "b": 2, "c": 3}, "a, b, c"),
        ({"bucket": "b", "key": "k"}, "bucket, key"),
        ({"": 1}, ""),
        ({"x" * 1000: 1}, "x" * 30),
    ],
)
def test_unknown_fields_are_refused_by_name_over_http_alone(ask, fields, named):
    event = rest("POST", "/", {}, json.dumps({"image": TEXT} | fields), "application/json")
    message = f"unknown field: {named}; the fields are url, urls, image, images, top_k, explain"
    assert sent(ask(event))["error"] == {"code": "invalid_request", "message": message}
    if "key" not in fields:
        assert "prediction" in ask({"image": TEXT} | fields).answer


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "the body is empty"),
        ("\ufeff \n", "the body is empty"),
        ("{", "the body is not JSON (Expecting property name"),
        ("{'url': 'http://a.example/'}", "the body is not JSON (Expecting property name"),
        ('{"image": "' + TEXT, "the body is not JSON (Unterminated string"),
        ("[]", "the request must be a JSON object"),
        (json.dumps(json.dumps({"image": TEXT})), "the request must be a JSON object"),
    ],
)
def test_bodies_that_say_nothing_are_refused_with_the_reason(ask, body, message):
    for content_type in ("application/json", "text/plain", ""):
        event = function_url("POST", "/", {}, body, content_type)
        error = sent(ask(event))["error"]
        assert error["code"] == "invalid_request" and error["message"].startswith(message)


# --- Base64 ---------------------------------------------------------------------------------------

TEXT2 = encoded(JPEG + b"\0")  # ends with two signs of padding
URL_SAFE = TEXT2.replace("+", "-").replace("/", "_")
BASE64 = {
    "without padding": TEXT2.rstrip("="),
    "too much padding": TEXT2.rstrip("=") + "====",
    "URL-safe": URL_SAFE,
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "blanks": " ".join(re.findall(".{1,7}", TEXT2)),
    "tabs, carriage returns, no-break spaces": "\t\r\n\u00a0\u2028".join(
        re.findall(".{1,99}", TEXT2)
    ),
    "a byte order mark": "\ufeff" + TEXT2 + "\n",
    "%3D": TEXT2.rstrip("=") + "%3D",
    "all encoded": urllib.parse.quote(TEXT2, safe=""),
    "encoded in lower case": urllib.parse.quote(TEXT2, safe="")
    .replace("%3D", "%3d")
    .replace("%2F", "%2f"),
    "DATA:": "DATA:IMAGE/JPEG;BASE64," + TEXT2,
    "data URL with parameters": "data:image/jpeg;name=a.jpg;base64," + TEXT2,
    "encoded data URL": urllib.parse.quote("data:image/jpeg;base64," + TEXT2, safe=""),
    "data URL in lines": "\n data:image/jpeg;base64,\n" + TEXT2,
}


def test_the_image_needs_all_of_base64():
    assert len(TEXT2.rstrip("=")) % 4 and {"+", "/"} <= set(TEXT2), "else the cases show nothing"


@pytest.mark.parametrize("name", BASE64)
def test_base64_of_every_encoder(ask, name):
    assert ask({"image": BASE64[name], "top_k": 1}).answer == DOG


@pytest.mark.parametrize(
    "text",
    [
        "a",
        TEXT[:401],
        TEXT.rstrip("=")[:-1] + "=A",
        TEXT + "!",
        TEXT.replace("/", "."),
        TEXT.replace("A", "\u0410"),
        "=" + TEXT,
        TEXT[:100] + "==" + TEXT[100:],
        "data:" + TEXT,
        TEXT[:8] + "\\n" + TEXT[8:],
        quopri.encodestring(JPEG).decode("latin-1"),
    ],
)
def test_other_alphabets_and_a_remainder_of_one_are_refused(ask, text):
    assert ask({"image": text}).answer["error"]["message"].startswith("image must be base64 text")


def test_usual_mistakes_with_base64_are_named(ask):
    assert "field url" in ask({"image": "https://a.example/dog.jpg"}).answer["error"]["message"]
    message = ask({"image": str(base64.b64encode(JPEG))}).answer["error"]["message"]
    assert "leave out the b and the quotes" in message


# --- What is no image -----------------------------------------------------------------------------

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
NO_IMAGES = {
    "web page": (
        b"<!DOCTYPE html><html><head><title>Dog</title>",
        "it is a web page; take the address",
    ),
    "web page after blanks": (b"\xef\xbb\xbf\r\n\n<html lang=en>", "it is a web page"),
    "web page after a comment": (b"<!-- saved -->\n<HTML>", "it is a web page"),
    "many comments": (b"<!---->" * 250 + b"<html>", "it is a web page"),
    "comments alone": (b"<!---->" * 280, "it is XML"),
    "script": (b"<script>window.location='/login'</script>", "it is a web page"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "Git LFS pointer",
    ),
    "S3": (
        b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>',
        "the error NoSuchKey of a storage",
    ),
    "GCS": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>",
        "the error AccessDenied",
    ),
    "Azure": (
        b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>BlobNotFound</Code>',
        "the error BlobNotFound",
    ),
    "nothing": (b"", "the image is empty: it has 0 bytes"),
    "blanks": (b"\r\n\r\n", "nothing but blanks"),
    "base64": (TEXT.encode(), "base64 within base64; encode the file only once"),
    "URL-safe base64 in lines": (
        "\n".join(re.findall(".{1,60}", URL_SAFE)).encode(),
        "base64 within base64",
    ),
    "data URL": (b"data:image/png;base64,iVBORw0KGgo=", "base64 within base64"),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg">', "SVG drawing"),
    "plain SVG": (b"<svg viewBox='0 0 1 1'>", "SVG drawing"),
    "other XML": (b"<?xml version='1.0'?><rss>", "it is XML"),
    "JSON": (b'{"message": "Forbidden"}', "it is JSON"),
    "address": (b"https://a.example/dog.jpg", "it is an address; send it in the field url"),
    "PDF": (b"%PDF-1.7\n", "it is a PDF"),
    "ZIP": (b"PK\x03\x04\x14", "it is a ZIP archive"),
    "gzip": (gzip.compress(JPEG), "it is compressed with gzip"),
    "HEIC": (HEIC, "send HEIC and AVIF as a JPEG"),
    "AVIF": (HEIC.replace(b"heic", b"avif"), "send HEIC and AVIF as a JPEG"),
    "video": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2mp41", "it is a video"),
    "TIFF": (b"II*\0\x08\0\0\0", "it is a TIFF"),
    "read as text": (JPEG[:2000].decode(errors="replace").encode(), "changed into text on its way"),
    "text": (b"a dog", "it is text"),
    "something": (b"\x07\x99\x01\x02" * 9, "the image is none of JPEG, PNG, WEBP, GIF, BMP"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_named(ask, name):
    data, message = NO_IMAGES[name]
    error = ask({"image": encoded(data)}).answer["error"]
    assert error["code"] == "unsupported_type" and message in error["message"]
