"""Recognise the type of data by their first bytes, and say what to do with other types."""

import base64
import binascii
import re

FORMATS = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WEBP": b"RIFF",
    "GIF": b"GIF8",
    "BMP": b"BM",
}
MANGLED = (  # code and message of a RequestError
    "unsupported_type",
    "the image was changed into text on its way; send base64 in JSON, or let the gateway pass"
    " binary bodies (binary media types */* of a REST API)",
)
WEB_PAGE = rb"<(!doctype html|html|head|body|title|meta|script)\b"
S3_ERROR = rb"(?s)<Error>.{0,200}?<Code>(\w{1,50})</Code>"
HEIF = ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "avif", "avis")
STARTS = (  # first bytes of a type, and the end of its message
    (
        b"version https://git-lfs.github.com/",
        "it is a Git LFS pointer; run git lfs pull, or take the address of the file itself",
    ),
    (b"%PDF", "it is a PDF; save its page as a JPEG"),
    (b"<svg", "it is an SVG drawing; save it as a PNG"),
    (b"II*\0", "it is a TIFF; save it as a JPEG"),
    (b"MM\0*", "it is a TIFF; save it as a JPEG"),
    (b"II+\0", "it is a TIFF; save it as a JPEG"),
    (b"MM\0+", "it is a TIFF; save it as a JPEG"),
    (b"8BPS", "it is a Photoshop file; save it as a JPEG"),
    (b"\xff\x0a", "it is a JPEG XL; save it as a JPEG"),
    (b"\0\0\0\x0cJXL ", "it is a JPEG XL; save it as a JPEG"),
    (b"\0\0\0\x0cjP  ", "it is a JPEG 2000; save it as a JPEG"),
    (b"\0\0\1\0", "it is an icon; save it as a PNG"),
    (b"PK\x03\x04", "it is a ZIP archive; send the images in it one by one"),
    (b"\x1f\x8b", "it is compressed with gzip; send the image itself"),
    (b"7z\xbc\xaf", "it is an archive; send the images in it one by one"),
    (b"Rar!", "it is an archive; send the images in it one by one"),
    (b"\x1aE\xdf\xa3", "it is a video; send one image of it"),
)


def starts_as_image(data: bytes) -> bool:
    """Return whether data begin like an image of one of FORMATS."""
    return data.startswith(tuple(FORMATS.values()))


def describe(data: bytes) -> str:
    """Return a message about data that are not an image: what they are, and what to do."""
    if not data:
        return "the image is empty: it has 0 bytes"
    head = data[:2000]
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    not_read = f"the image is none of {', '.join(FORMATS)}"
    for start, sentence in STARTS:
        if head.startswith(start) or text.startswith(start):
            return f"{not_read}: {sentence}"
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1")
        if brand in HEIF or any(name.encode() in head[16:64] for name in HEIF):
            return f"{not_read}; send HEIC and AVIF as a JPEG"
        return f"{not_read}: it is a video; send one image of it"
    page = text.lower()
    while page.startswith(b"<!--"):  # skip comments before the page's first element
        page = page.partition(b"-->")[2].lstrip()
    if re.match(WEB_PAGE, page):
        return (
            f"{not_read}: it is a web page; take the address of the image itself"
            " (in a browser: right click on the image, copy image address)"
        )
    if error := re.search(S3_ERROR, text):
        return f"{not_read}: it is the error {error[1].decode()} of a storage service"
    if text.startswith(b"<"):
        drawing = b"<svg" in text
        return f"{not_read}: it is {'an SVG drawing; save it as a PNG' if drawing else 'XML'}"
    if text.startswith((b"{", b"[")):
        return f"{not_read}: it is JSON; if a server sent it, its text says why"
    if text.startswith((b"http://", b"https://")):
        return f"{not_read}: it is an address; send it in the field url"
    if text.startswith(b"data:image/") or is_base64_of_image(text):
        return f"{not_read}: it is base64 within base64; encode the file only once"
    # A gateway that takes an image for text replaces its bytes by U+FFFD
    if b"\xef\xbf\xbd" in head[:64]:
        return MANGLED[1]
    if not text:
        return f"{not_read}: it has nothing but blanks"
    if not text.translate(None, bytes([*range(32, 127), 9, 10, 13])):
        return f"{not_read}: it is text"
    return not_read


def is_base64_of_image(text: bytes) -> bool:
    """Return whether a text begins like the base64 of an image."""
    letters = b"".join(text[:100].split()).translate(bytes.maketrans(b"-_", b"+/"))[:16]
    try:
        return starts_as_image(base64.b64decode(letters, validate=True))
    except (binascii.Error, ValueError):
        return False
