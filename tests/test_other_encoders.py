"""Photos as phones, cameras, scanners and laboratories write them: read, or refused with the cause
named.
"""

import base64
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from conftest import run
from odd_images import BREED, chunk, drawn_image, orientation_exif, png_file, saved
from PIL import Image, PngImagePlugin
from planted import smooth_image

from dog_breeds.clients.client_images import (
    MAX_SENT_BYTES,
    UnreadableImage,
    image_to_send,
    upright_image,
)
from dog_breeds.data.class_folders import inspect_image
from dog_breeds.serving.jpegs import CutOff, has_all_scans, without_trailer
from dog_breeds.serving.pixels import NoColours, read_pixels

PHOTO = smooth_image(500, 375)
NOISE = Image.effect_noise((320, 240), 60).convert("RGB")
KINDS = {
    "plain": {"quality": 90},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 4},
    "optimized": {"optimize": True, "subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
}
CUT = "is cut off: its last part is missing"


def jpeg(image: Image.Image, **options: object) -> bytes:
    """Return a JPEG without its end marker."""
    data = saved(image, format="JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    return data[:-2]


def samsung_trailer() -> bytes:
    """Return what a phone of Samsung appends: a name and a video, then where they are."""
    name = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1458170015363"
    video = b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + np.random.default_rng(5).bytes(50_000)
    blocks = [(0x0A01, len(name) + len(video), len(name)), (0x0A30, len(video), len(video))]
    index = b"SEFH" + struct.pack("<II", 106, len(blocks))
    index += b"".join(struct.pack("<HHII", 0, *block) for block in blocks)
    return name + video + index + struct.pack("<I", len(index)) + b"SEFT"


def answer(ask: Callable, data: bytes) -> dict:
    return ask({"image": base64.b64encode(data).decode()}).answer


def breed(ask: Callable, data: bytes) -> str:
    """Return the likeliest breed of a photo, or why it was refused."""
    reply = answer(ask, data)
    return reply["error"]["message"] if "error" in reply else next(iter(reply["prediction"]))


# --- JPEG without an end marker -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", ["nothing", "half a marker", "zeros", "ones", "a video"])
def test_a_jpeg_without_its_end_is_read_as_if_it_had_one(ask, tmp_path, kind, behind):
    after = {
        "nothing": b"",
        "half a marker": b"\xff",
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "a video": samsung_trailer(),
    }
    data = jpeg(drawn_image(500, 375), **KINDS[kind]) + after[behind]
    assert breed(ask, data) == BREED
    for image in (PHOTO, NOISE, PHOTO.convert("L"), PHOTO.convert("CMYK"), PHOTO.resize((9, 9))):
        data = jpeg(image, **KINDS[kind])
        expected = read_pixels(io.BytesIO(data + b"\xff\xd9"), 299, 0.875)
        assert (read_pixels(io.BytesIO(data + after[behind]), 299, 0.875) == expected).all()
        (tmp_path / "photo.jpg").write_bytes(data + after[behind])
        assert (read_pixels(tmp_path / "photo.jpg", 299, 0.875) == expected).all()
    assert not isinstance(inspect_image(tmp_path / "photo.jpg"), str)
    assert upright_image(tmp_path / "photo.jpg", 8).size == (8, 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", ["nothing", "zeros", "a video"])
@pytest.mark.parametrize(
    "image", [PHOTO, NOISE, PHOTO.resize((2800, 2600))], ids=["smooth", "noise", "large"]
)
def test_a_cut_off_jpeg_is_refused_and_the_cause_named(kind, behind, image):
    data, starts = jpeg(image, **KINDS[kind]), []
    after = {"nothing": b"", "zeros": bytes(9_000), "a video": samsung_trailer()}[behind]
    start = data.index(b"\xff\xda") + 20  # before it, nothing but the header is there
    cuts = [*np.linspace(start, len(data) - 60, 6).astype(int), len(data) - 40]
    for cut in cuts:
        with pytest.raises(CutOff, match=CUT):
            starts.append(cut)
            read_pixels(io.BytesIO(data[:cut] + after), 299, 0.875)
    assert starts == cuts


def test_what_is_cut_off_of_a_blank_jpeg_is_refused_unless_it_makes_no_difference():
    for kind in KINDS.values():
        data = jpeg(Image.new("RGB", (900, 900), "white"), **kind)
        whole, refused = read_pixels(io.BytesIO(data), 299, 0.875), 0
        for cut in range(1, 60):
            try:
                assert (read_pixels(io.BytesIO(data[:-cut]), 299, 0.875) == whole).all()
            except CutOff:
                refused += 1
        assert refused >= 50


def test_everybody_who_reads_a_cut_off_jpeg_says_so(ask, tmp_path):
    data = jpeg(drawn_image(500, 375))[:-500]
    assert answer(ask, data) == {"error": {"code": "invalid_image", "message": f"the image {CUT}"}}
    file = tmp_path / "photo.jpg"
    file.write_bytes(data)
    assert inspect_image(file) == f"it {CUT}"
    with pytest.raises(UnreadableImage, match=rf"photo\.jpg {CUT}"):
        upright_image(file, 100)


def test_a_jpeg_that_ends_between_two_scans_is_cut_off():
    """Such a file decodes without an error, but blurred: not all scans have come."""
    data = jpeg(PHOTO, progressive=True)
    scans = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    # A scan's tables stand before it
    ends = [max(data.rfind(b"\xff\xc4", 0, scan), scans[i]) for i, scan in enumerate(scans[1:])]
    assert len(scans) > 5 and has_all_scans(data)
    for end in ends:
        assert not has_all_scans(data[:end])
        with pytest.raises(CutOff):
            read_pixels(io.BytesIO(data[:end]), 299)


@pytest.mark.parametrize("damage", ["length", "start", "distance", "short"])
def test_a_trailer_that_makes_no_sense_is_none(damage):
    data = jpeg(PHOTO)
    whole = data + samsung_trailer()
    assert without_trailer(whole) == data
    index = whole.rindex(b"SEFH")
    odd = {
        "length": whole[:-8] + b"\xff\xff\xff\xff" + whole[-4:],
        "start": whole[:index] + b"SEFX" + whole[index + 4 :],
        "distance": whole[: index + 16] + b"\xff\xff\xff\xff" + whole[index + 20 :],
        "short": b"\xff\xd8\xffSEFT",
    }[damage]
    assert without_trailer(odd) == (b"" if damage == "distance" else odd)


# --- PNG with large texts and profiles ------------------------------------------------------------


def with_chunks(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """Return a PNG file with further parts before its pixels."""
    png = saved(image or drawn_image(), format="PNG")
    return png[:33] + b"".join(chunks) + png[33:]


LONG = zlib.compress(bytes(5_000_000))
LARGE_PARTS = {
    "text": chunk(b"zTXt", b"workflow\0\0" + LONG),
    "international text": chunk(b"iTXt", b"prompt\0\1\0\0\0" + LONG),
    "profile": chunk(b"iCCP", b"scanner\0\0" + LONG),
    "plain text": chunk(b"tEXt", b"prompt\0" + b"x" * 3_000_000),
    "exif": chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "damaged profile": chunk(b"iCCP", b"scanner\0\0" + b"not compressed"),
    "odd text": chunk(b"zTXt", b"a\0\7b"),
}


@pytest.mark.parametrize("part", LARGE_PARTS)
def test_a_png_with_a_large_text_or_profile(ask, tmp_path, part):
    data = with_chunks(LARGE_PARTS[part])
    behind = data[:-12] + LARGE_PARTS[part] + data[-12:]  # also after the pixels
    assert breed(ask, data) == breed(ask, behind) == BREED
    (tmp_path / "photo.png").write_bytes(behind)
    assert upright_image(tmp_path / "photo.png", 100).size == (100, 75)
    assert not isinstance(inspect_image(tmp_path / "photo.png"), str)
    if len(behind) < MAX_SENT_BYTES:
        assert image_to_send(tmp_path / "photo.png") == behind


def test_texts_that_turn_a_png_are_read():
    turned = drawn_image().transpose(Image.Transpose.ROTATE_90)
    exif = orientation_exif(6).hex()
    texts = PngImagePlugin.PngInfo()
    profile = f"\nexif\n{len(exif) // 2:8}\n{exif}\n"
    texts.add_text("Raw profile type exif", profile, zip=True)
    data = saved(turned, format="PNG", pnginfo=texts)
    assert b"zTXt" in data
    upright = read_pixels(io.BytesIO(saved(drawn_image(), format="PNG")), 99)
    assert (read_pixels(io.BytesIO(data), 99) == upright).all()
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
    data = saved(turned, format="PNG", pnginfo=texts)
    assert (read_pixels(io.BytesIO(data), 99) == upright).all()


def test_a_png_whose_checksum_is_wrong_stays_refused(ask):
    part = bytearray(LARGE_PARTS["profile"])
    part[-1] ^= 1
    assert "damaged" in breed(ask, with_chunks(bytes(part)))
    assert "damaged" in breed(ask, png_file((9, 9, 8, 2, 0, 0, 0), LARGE_PARTS["text"]))


# --- Numbers that are no colours ------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 1, 320, dtype=np.float32), (240, 1))


@pytest.mark.parametrize(
    "values",
    [
        RAMP,
        RAMP * 255,
        RAMP * 65535,
        -RAMP,
        (RAMP * 65535).astype(np.int32),
        (RAMP * 2**31 * 0.99).astype(np.int32),
    ],
    ids=["0 to 1", "0 to 255", "0 to 65535", "negative", "int32", "large int32"],
)
def test_numbers_of_32_bits_are_refused_with_a_sentence(colour_model, tmp_path, values):
    image = Image.fromarray(values)
    assert image.mode in ("F", "I")
    file = tmp_path / "field.tif"
    image.save(file)
    with pytest.raises(NoColours, match="numbers of another kind than colours"):
        read_pixels(file, 99)
    with pytest.raises(UnreadableImage, match=r"field\.tif holds numbers .* PNG or JPEG"):
        image_to_send(file)
    assert inspect_image(file).startswith("it holds numbers of another kind")
    done = run("test.py", "--file", file, "--model", colour_model)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "field.tif" in done.stderr


def test_a_lab_image_is_refused_with_a_sentence(tmp_path):
    Image.new("LAB", (40, 30)).save(tmp_path / "lab.tif")
    with pytest.raises(UnreadableImage, match=r"lab\.tif holds numbers .*LAB"):
        upright_image(tmp_path / "lab.tif", 40)


@pytest.mark.parametrize(
    ("bits", "tags"),
    [
        (16, {}),
        (12, {281: 4095}),  # what microscopes and scanners say of their 12 bits
        (10, {281: 1023}),
        (16, {262: 0}),  # white is 0
        (12, {262: 0, 281: 4095}),
    ],
)
def test_grey_of_more_than_8_bits_keeps_its_brightness(tmp_path, bits, tags):
    values = (RAMP * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.tif", tiffinfo=tags)
    seen = np.asarray(upright_image(tmp_path / "scan.tif", 320).convert("L"), int)
    expected = 255 * (1 - RAMP if tags.get(262) == 0 else RAMP)
    assert abs(seen - expected).max() <= 3


def test_grey_of_12_bits_in_12_bits():
    values = (RAMP * 4095).astype(np.uint16)
    pairs = values.reshape(240, -1, 2).astype(int)
    packed = np.stack(
        [pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255],
        axis=-1,
    )
    rows = packed.astype(np.uint8).tobytes()
    entries = [(256, 320), (257, 240), (258, 12), (259, 1), (262, 1), (273, 122)]
    entries += [(277, 1), (278, 240), (279, len(rows))]
    index = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + index + bytes(4)
    image = io.BytesIO(data.ljust(122, b"\0") + rows)
    assert Image.open(image).mode == "I;16"
    expected = read_pixels(
        io.BytesIO(saved(Image.fromarray((RAMP * 255).astype("uint8")), format="PNG")), 99
    )
    assert abs(read_pixels(image, 99).astype(int) - expected).max() <= 4
