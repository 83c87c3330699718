"""Images that a service on the internet meets: of every kind, turned, cut off, mislabelled, and
beyond its limits. None of them harms the software that reads it.
"""

import base64
import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from colour_model import COLOURS
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

BREED = "leonberg"  # what the colour model sees in the upper left quarter of image()
DAMAGED, TOO_LARGE, OTHER_TYPE = "invalid_image", "too_large", "unsupported_type"  # error codes
FORMATS = {
    "jpg": {"format": "JPEG", "quality": 90},
    "progressive.jpg": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP"},
    "lossless.webp": {"format": "WEBP", "lossless": True},
    "gif": {"format": "GIF"},
    "bmp": {"format": "BMP"},
}
STORED = {  # how an upright image is turned before it is stored, by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

# Name, content, the breed or error code to answer; None: any of them
Case = tuple[str, bytes, str | None]


def once(cases: Callable[[], Iterator[Case]]) -> Callable[[], tuple[Case, ...]]:
    """Make cases that take seconds to make only once."""
    return functools.cache(functools.wraps(cases)(lambda: tuple(cases())))


def drawn_image(width: int = 320, height: int = 240, breed: str = BREED) -> Image.Image:
    """An image in a breed's colour, but for three quarters of it, which are in other colours."""
    image = Image.new("RGB", (width, height), COLOURS["maltese_dog"])
    image.paste(COLOURS["samoyed"], (width // 2, 0, width, height // 2))
    image.paste(COLOURS["shih_tzu"], (width // 2, height // 2, width, height))
    image.paste(COLOURS[breed], (0, 0, width // 2, height // 2))
    return image


def one_way_up() -> Image.Image:
    """An image that is a breed's only when upright, and has no borders."""
    image = Image.new("RGB", (480, 360), (128, 128, 128))
    image.paste(COLOURS[BREED], (0, 0, 240, 180))
    image.paste((150, 150, 110), (240, 0, 480, 180))
    image.paste((110, 150, 150), (0, 180, 240, 360))
    return image


def screenshot(image: Image.Image) -> Image.Image:
    """An image on a telephone's screen, between white borders with a few words."""
    screen = Image.new("RGB", (540, 1170), "white")
    screen.paste(image.resize((540, 405)), (0, 380))
    ImageDraw.Draw(screen).text((20, 70), "Our dog", "black", font_size=34)
    return screen


def saved(image: Image.Image, **options: object) -> bytes:
    """Content of the file."""
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def text(image: Image.Image, **options: object) -> str:
    """The file in base64, as JPEG unless another format is given."""
    return base64.b64encode(saved(image, **({"format": "JPEG"} | options))).decode()


JPEG = saved(drawn_image(500, 375), format="JPEG")  # the usual image
TEXT = base64.b64encode(JPEG).decode()


def modes() -> Iterator[Case]:
    """Every mode of every format."""
    rgb, gray = drawn_image(), drawn_image(breed="great_pyrenees").convert("L")
    alpha = Image.new("L", rgb.size, 255)
    alpha.paste(0, (rgb.width // 2, 0, *rgb.size))
    rgba, clear = rgb.copy(), Image.new("RGBA", rgb.size, (0, 0, 0, 0))
    rgba.putalpha(alpha)
    palette, gray_alpha = rgb.quantize(16), Image.merge("LA", (gray, alpha))
    for kind, options in FORMATS.items():
        yield f"plain.{kind}", saved(rgb, **options), BREED
        if kind != "lossless.webp":
            yield f"gray.{kind}", saved(gray, **options), "great_pyrenees"
            yield f"bits.{kind}", saved(gray.convert("1"), **options), "great_pyrenees"
        if "jpg" not in kind:
            yield f"palette.{kind}", saved(palette, **options), BREED
        if kind in ("png", "webp", "lossless.webp", "gif"):
            yield f"alpha.{kind}", saved(rgba, **options), BREED
            # Nothing at all, over white
            yield (f"clear.{kind}", saved(clear, **options), "great_pyrenees")
            frames = [drawn_image(breed="afghan_hound"), drawn_image(breed="samoyed")]
            yield (
                f"animated.{kind}",
                saved(rgb, save_all=True, append_images=frames, **options),
                BREED,
            )
    yield "gray_alpha.png", saved(gray_alpha, format="PNG"), "great_pyrenees"
    yield "16_bit.png", saved(gray_16_bit(), format="PNG"), "great_pyrenees"
    for bits in (2, 4):
        yield (
            f"palette_{bits}_bits.png",
            saved(rgb.quantize(2**bits), format="PNG", bits=bits),
            BREED,
        )
    yield "palette_alpha.png", saved(rgba.quantize(16), format="PNG"), BREED
    corner = palette.getpixel((0, 0))
    yield (
        "transparent_index.png",
        saved(palette, format="PNG", transparency=corner),
        "great_pyrenees",
    )
    yield (
        "transparent_indices.png",
        saved(palette, format="PNG", transparency=bytes(16)),
        "great_pyrenees",
    )
    yield (
        "transparent_colour.png",
        saved(rgb, format="PNG", transparency=COLOURS[BREED]),
        "great_pyrenees",
    )
    yield (
        "transparent_gray.png",
        saved(Image.new("L", (64, 64), 9), format="PNG", transparency=9),
        "great_pyrenees",
    )
    yield (
        "transparent_gray_16.png",
        saved(gray_16_bit(), format="PNG", transparency=9),
        "great_pyrenees",
    )
    for kind, value, breed in (
        (0, [250], "great_pyrenees"),
        (2, COLOURS[BREED], BREED),
        (4, [250, 255], "great_pyrenees"),
        (6, [*COLOURS[BREED], 255], BREED),
    ):
        yield f"16_bit_colour_type_{kind}.png", png_16_bit(kind, value), breed
    yield "cmyk.jpg", saved(rgb.convert("CMYK"), format="JPEG"), BREED
    yield "cmyk_progressive.jpg", saved(rgb.convert("CMYK"), format="JPEG", progressive=True), BREED
    yield "ycbcr.jpg", saved(rgb.convert("YCbCr"), format="JPEG"), BREED
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield f"{subsampling}.jpg", saved(rgb, format="JPEG", subsampling=subsampling), BREED
    for quality in (1, 5, 100):
        yield f"quality_{quality}.jpg", saved(rgb, format="JPEG", quality=quality), BREED
    yield "keep_rgb.jpg", saved(rgb, format="JPEG", keep_rgb=True), BREED
    yield "restarts.jpg", saved(rgb, format="JPEG", restart_marker_blocks=1), BREED
    yield "profile.jpg", saved(rgb, format="JPEG", icc_profile=bytes(200_000)), BREED
    yield "comment.jpg", saved(rgb, format="JPEG", comment=b"c" * 60_000), BREED
    yield (
        "stereo.jpg",
        saved(rgb, format="MPO", save_all=True, append_images=[gray.convert("RGB")]),
        BREED,
    )
    yield (
        "with_video.jpg",
        saved(rgb, format="JPEG") + np.random.default_rng(1).bytes(2_000_000),
        BREED,
    )
    yield "interlaced.gif", saved(palette, format="GIF", interlace=1), BREED
    yield "rgba.bmp", saved(rgba, format="BMP"), BREED  # whose alpha Pillow keeps
    yield "os2.bmp", os2_bmp(rgb), BREED
    yield "downwards.bmp", downwards_bmp(rgb), BREED


def gray_16_bit() -> Image.Image:
    """Nearly white, as 16 bits a pixel."""
    return Image.fromarray(np.full((240, 320), 250 * 257, np.uint16))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(header: tuple, *chunks: bytes) -> bytes:
    """A PNG file of a header (width, height, bits, colour type, 0, 0, interlaced) and further
    chunks.
    """
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return start + b"".join(chunks) + chunk(b"IEND", b"")


def png_16_bit(colour_type: int, value: list[int]) -> bytes:
    """A PNG file of 16 bits a channel."""
    row = b"\0" + struct.pack(f">{len(value)}H", *(v * 257 for v in value)) * 40
    return png_file((40, 30, 16, colour_type, 0, 0, 0), chunk(b"IDAT", zlib.compress(row * 30)))


def os2_bmp(image: Image.Image) -> bytes:
    """A BMP file with the small header of OS/2."""
    rows = image.tobytes("raw", "BGR", 0, -1)
    header = struct.pack("<IHHHH", 12, image.width, image.height, 1, 24)
    return b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + header + rows


def downwards_bmp(image: Image.Image) -> bytes:
    """A BMP file whose rows go from top to bottom."""
    data = bytearray(saved(ImageOps.flip(image), format="BMP"))
    data[22:26] = struct.pack("<i", -image.height)
    return bytes(data)


def turned() -> Iterator[Case]:
    """Images that their EXIF data turn upright, and some with EXIF data that make no sense."""
    for kind in ("jpg", "progressive.jpg", "png", "webp"):
        for orientation in (*range(10), 65535):
            image = (
                drawn_image().transpose(STORED[orientation])
                if orientation in STORED
                else drawn_image()
            )
            exif = orientation_exif(orientation)
            yield f"turned_{orientation}.{kind}", saved(image, exif=exif, **FORMATS[kind]), BREED
    large = drawn_image(4032, 3024).transpose(STORED[6])
    yield "phone.jpg", saved(large, format="JPEG", exif=orientation_exif(6)), BREED
    image = drawn_image().transpose(STORED[6])
    yield "exif_unwritable.jpg", saved(image, format="JPEG", exif=UNWRITABLE_EXIF), BREED
    for name, exif in {
        "garbage": b"Exif\0\0" + bytes(range(256)),
        "short": b"Exif\0\0II*\0",
        "beyond": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xe8\x03\0\0\x08\0\0\0",
        "text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",
    }.items():
        for kind in ("jpg", "png", "webp"):
            yield f"exif_{name}.{kind}", saved(drawn_image(), exif=exif, **FORMATS[kind]), BREED
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 8\nnot hexadecimal")
    yield "exif_profile.png", saved(drawn_image(), format="PNG", pnginfo=info), BREED


# Turned by 90 degrees, and with a resolution that is a text: Pillow reads it, and fails when it is
# to write it.
UNWRITABLE_EXIF = b"Exif\0\0II*\0"
UNWRITABLE_EXIF += (
    b"\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x1a\x01\x02\0\x04\0\0\0six\0\0\0\0\0"
)


def orientation_exif(orientation: int, comment: int = 0) -> bytes:
    """EXIF data that say only how an image is turned, and a comment of so many characters."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if comment:
        exif[0x9C9C] = "c" * comment
    return exif.tobytes()


def cut_off() -> Iterator[Case]:
    """Files cut off at every tenth of their length."""
    noise = Image.effect_noise((200, 150), 60).convert("RGB")
    for kind, options in FORMATS.items():
        data = saved(noise, **options)
        for tenth in range(1, 10):
            yield f"cut_{tenth}.{kind}", data[: len(data) * tenth // 10], DAMAGED


def mislabelled() -> Iterator[Case]:
    """Files that are not what they begin like, or not images of a kind that is taken."""
    jpeg, png = saved(drawn_image(), format="JPEG"), saved(drawn_image(), format="PNG")
    starts = {"jpeg": jpeg[:3], "png": png[:8], "gif": b"GIF89a", "bmp": b"BM", "webp": b"RIFF"}
    for name, start in starts.items():
        yield f"{name}_of_zeros", start + bytes(5000), DAMAGED
        yield f"{name}_alone", start, DAMAGED
        yield f"{name}_before_png", start + png, DAMAGED
    yield "png_with_jpeg", png[:40] + jpeg, DAMAGED
    yield "wave", b"RIFF\x24\0\0\0WAVEfmt " + bytes(100), DAMAGED
    yield "webp_unknown", b"RIFF\x24\0\0\0WEBPVP9 " + bytes(100), DAMAGED
    yield "png_wrong_checksum", png.replace(png[29:33], b"\0\0\0\0", 1), DAMAGED
    yield (
        "png_wrong_data",
        png_file((64, 64, 8, 2, 0, 0, 0), chunk(b"IDAT", b"nothing compressed")),
        DAMAGED,
    )
    yield "png_no_data", png_file((64, 64, 8, 2, 0, 0, 0)), DAMAGED
    yield (
        "png_odd_bits",
        png_file((64, 64, 3, 2, 0, 0, 0), chunk(b"IDAT", zlib.compress(bytes(9999)))),
        DAMAGED,
    )
    yield (
        "png_no_palette",
        png_file((8, 8, 8, 3, 0, 0, 0), chunk(b"IDAT", zlib.compress(bytes(72)))),
        None,
    )
    yield "jpeg_no_frame", b"\xff\xd8\xff\xd9" + jpeg[2:22], DAMAGED
    yield "jpeg_no_tables", jpeg[:20] + jpeg[jpeg.index(b"\xff\xc0") :], DAMAGED
    for kind in ("TIFF", "JPEG2000", "ICO", "PPM", "EPS", "TGA"):
        yield kind.lower(), saved(drawn_image(64, 64), format=kind), OTHER_TYPE
    for name, data in {
        "nothing": b"",
        "a byte": b"\xff",
        "zeros": bytes(1000),
        "text": b"a dog",
        "html": b"<!doctype html><img src=dog.jpg>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "pdf": b"%PDF-1.7\n" + bytes(100),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "zip": b"PK\x03\x04" + bytes(100),
        "script": b"#!/bin/sh\necho\n",
        "photoshop": b"8BPS\0\x01" + bytes(100),
        "space before": b" " + jpeg,
    }.items():
        yield name, data, OTHER_TYPE


def sizes() -> Iterator[Case]:
    """Images of one pixel and of absurdly many."""
    breed, colour = BREED, COLOURS[BREED]
    for width, height in ((1, 1), (1, 2), (1, 9000), (9000, 1), (16383, 3), (2, 2)):
        for kind in ("jpg", "png", "webp", "gif", "bmp"):
            yield (
                f"{width}x{height}.{kind}",
                saved(Image.new("RGB", (width, height), colour), **FORMATS[kind]),
                breed,
            )
    yield "65500x1.jpg", saved(Image.new("RGB", (65500, 1), colour), format="JPEG"), breed
    yield "50_megapixels.jpg", saved(Image.new("RGB", (8000, 6250), colour), format="JPEG"), breed
    gray = Image.new("L", (8000, 6250), 250)
    yield "50_megapixels_gray.png", saved(gray, format="PNG", compress_level=1), "great_pyrenees"
    yield (
        "over_50_megapixels.jpg",
        saved(Image.new("L", (8000, 6251), 200), format="JPEG"),
        TOO_LARGE,
    )
    yield "over_50_megapixels.gif", saved(Image.new("P", (8000, 6251)), format="GIF"), TOO_LARGE
    gif, bmp = (saved(drawn_image(), **FORMATS[kind]) for kind in ("gif", "bmp"))
    yield "announces_65535x65535.jpg", jpeg_head(b"\xc0", 65535, 65535, 1), TOO_LARGE
    yield "announces_0x0.jpg", jpeg_head(b"\xc0", 0, 0, 1), DAMAGED
    for width, height, code in (
        (2**31 - 1, 2**31 - 1, TOO_LARGE),
        (60000, 60000, TOO_LARGE),
        (0, 0, DAMAGED),
    ):
        data = png_file((width, height, 8, 6, 0, 0, 0), chunk(b"IDAT", b""))
        yield f"announces_{width}x{height}.png", data, code
    yield "announces_65535x65535.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], TOO_LARGE
    wrong = (
        (2**31 - 1, 2**31 - 1, TOO_LARGE),
        (50000, -50000, TOO_LARGE),
        (0, 0, DAMAGED),
        (-9, 9, TOO_LARGE),
    )
    for width, height, code in wrong:
        yield (
            f"announces_{width}x{height}.bmp",
            bmp[:18] + struct.pack("<ii", width, height) + bmp[26:],
            code,
        )
    webp = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\x3f\0" * 2
    yield (
        "announces_16384x16384.webp",
        b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
        DAMAGED,
    )
    yield "over_10_megabytes.png", saved(drawn_image(), format="PNG") + bytes(10_000_000), TOO_LARGE


@once
def hostile() -> Iterator[Case]:
    """Files that the service refuses for what they would cost, and large files that it accepts.

    All are harmless for other software. A file that stands for a costly one is just beyond the
    limit, or is cut off before any data: the service has to refuse it by its header.
    """
    jpeg, png, gif = (saved(drawn_image(), **FORMATS[kind]) for kind in ("jpg", "png", "gif"))
    yield "many_segments.jpg", jpeg[:2] + segment(b"\xe5", b"") * 6000 + jpeg[2:], DAMAGED
    yield "many_fill_bytes.jpg", jpeg[:2] + b"\xff" * 6000 + jpeg[2:], DAMAGED
    yield "many_chunks.png", png[:33] + chunk(b"prVt", b"") * 6000 + png[33:], DAMAGED
    start = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    comment = b"!\xfe" + b"\1c" * 6000 + b"\0"
    yield "long_comment.gif", gif[:start] + comment + gif[start:], DAMAGED
    # Of long EXIF data only the start is read; it holds the orientation.
    turned = saved(drawn_image().transpose(STORED[6]), format="PNG")
    exif = chunk(b"eXIf", orientation_exif(6, 100_000).removeprefix(b"Exif\0\0"))
    yield "long_exif.png", turned[:33] + exif + turned[33:], BREED
    for kind, name in ((b"zTXt", b"a"), (b"iCCP", b"a")):
        text = chunk(kind, name + b"\0\0" + zlib.compress(bytes(2_000_000)))
        yield f"long_{kind.decode()}.png", png[:33] + text + png[33:], None
    yield "many_scans.jpg", repeated_scans(64, 64, 30), "pomeranian"
    # As many scans as are allowed for so many pixels: these files are refused for having no data.
    yield "10_scans_of_50_megapixels.jpg", jpeg_head(b"\xc2", 8000, 6250, 10), DAMAGED
    yield "11_scans_of_50_megapixels.jpg", jpeg_head(b"\xc2", 8000, 6250, 11), TOO_LARGE
    # A narrow image is decoded in blocks, and counts as 8 pixels wide.
    yield "scans_of_a_narrow_image.jpg", jpeg_head(b"\xc2", 1, 65_000, 961), DAMAGED
    yield "too_many_scans_of_a_narrow_image.jpg", jpeg_head(b"\xc2", 1, 65_000, 962), TOO_LARGE
    yield "scans_of_few_pixels.jpg", jpeg_head(b"\xc2", 8, 8, 6000), TOO_LARGE
    yield "plain_jpeg_with_scans.jpg", jpeg_head(b"\xc0", 8000, 6250, 11), TOO_LARGE
    # An end of the image within a comment is none.
    first, more = jpeg_head(b"\xc2", 8000, 6250, 1), jpeg_head(b"\xc2", 8000, 6250, 10)
    scans = more[len(first) - len(SCAN) :]
    yield "scans_behind_a_comment.jpg", first + segment(b"\xfe", b"\xff\xd9") + scans, TOO_LARGE
    for marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):  # rare kinds
        rare = jpeg_head(bytes([marker]), 320, 240, 1)
        yield f"frame_{marker:x}.jpg", rare, OTHER_TYPE
        # A frame of the usual kind within a comment is none.
        comment = segment(b"\xfe", b"\xff\xc0\0\x02")
        yield f"frame_{marker:x}_behind_a_comment.jpg", rare[:2] + comment + rare[2:], OTHER_TYPE
    yield "plain_behind_an_end.jpg", b"\xff\xd8\xff\xd9" + jpeg, OTHER_TYPE
    odd = first + b"\0\xff\x02\xff\xff" + segment(b"\xdd", b"\0\0")
    yield "marker_of_no_segment.jpg", odd, OTHER_TYPE
    yield "runs.bmp", run_length_bmp(64, 64, b"\x40\x07\0\0" * 64 + b"\0\1"), OTHER_TYPE
    rows = b"".join(b"\0" + bytes(COLOURS[BREED]) * 1780 for _ in range(1780))
    data = zlib.compress(rows, 0)  # 9.5 MB
    chunks = [chunk(b"IDAT", data[i : i + 8192]) for i in range(0, len(data), 8192)]
    yield "chunks_of_8_kB.png", png_file((1780, 1780, 8, 2, 0, 0, 0), *chunks), BREED
    side = 7071  # 50 megapixels
    for colour_type, channels, breed in ((2, 3, "great_pyrenees"), (6, 4, TOO_LARGE)):
        packer, row = zlib.compressobj(9), b"\0" + b"\xff" * (side * channels)
        data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
        content = png_file((side, side, 8, colour_type, 0, 0, 0), chunk(b"IDAT", data))
        yield f"50_megapixels_{channels}.png", content, breed
    black = Image.new("RGB", (7000, 7000))
    yield "49_megapixels.webp", saved(black, format="WEBP", lossless=True, method=0), DAMAGED
    yield "12_megapixels.webp", saved(drawn_image(4032, 3024), format="WEBP", method=0), BREED
    cmyk = Image.new("CMYK", (7000, 7000), (0, 0, 255, 0))
    yield "progressive_cmyk.jpg", saved(cmyk, format="JPEG", progressive=True), None
    large = drawn_image(6000, 4000).convert("RGBA")
    yield "24_megapixels_alpha.png", saved(large, format="PNG", compress_level=1), BREED


def named(name: str) -> bytes:
    """The content of a file of `hostile`."""
    return next(data for other, data, _ in hostile() if other == name)


def segment(marker: bytes, data: bytes) -> bytes:
    """A segment of a JPEG file."""
    return b"\xff" + marker + struct.pack(">H", len(data) + 2) + data


SCAN = segment(b"\xda", bytes([1, 1, 0, 1, 1, 0]))  # the header of a scan, without data


def jpeg_head(frame: bytes, width: int, height: int, scans: int) -> bytes:
    """The start of a JPEG: a frame of this kind, headers of scans, no tables and no data."""
    sizes = struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
    return b"\xff\xd8" + segment(frame, sizes) + SCAN * scans


def run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A run-length encoded BMP."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(1024) + runs


def repeated_scans(width: int, height: int, times: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    image = Image.new("RGB", (width, height), COLOURS["pomeranian"])
    data = saved(image, format="JPEG", progressive=True, subsampling=0)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * times + b"\xff\xd9"


GROUPS = (modes, turned, cut_off, mislabelled, sizes, hostile)


def cases() -> Iterator[Case]:
    """All images of all groups."""
    for group in GROUPS:
        yield from group()
