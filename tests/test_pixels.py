"""What the model is shown of an image: every mode, turn and size; and the handler shows it what
training does.
"""

import base64
import io
import itertools
import resource
import zlib
from pathlib import Path

import numpy as np
import odd_images
import pytest
from handler_process import handler_process, run_python
from odd_images import STORED, chunk, orientation_exif, png_file, saved
from PIL import Image
from planted import smooth_image

from dog_breeds.serving.pixels import model_pixels, opaque, read_pixels, resize, scale_down


def over_white(image: Image.Image) -> Image.Image:
    """Alpha over white by the formula, in floating point."""
    values = np.asarray(image.convert("RGBA"), float)
    alpha = values[..., 3:] / 255
    return Image.fromarray(np.round(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


RGB = smooth_image(120, 600)  # in several of the strips that opaque() works in
GRAY, BITS, RGBA = RGB.convert("L"), RGB.convert("1"), RGB.copy()
RGBA.putalpha(Image.linear_gradient("L").resize(RGBA.size))
PALETTE = RGB.quantize(16)
GRAY16 = Image.fromarray(np.arange(120 * 500, dtype=np.uint16).reshape(500, 120))
UPPER = Image.fromarray((np.asarray(GRAY16) >> 8).astype(np.uint8))
# As RGBA of 16 bits a channel
WIDE = np.random.default_rng(8).integers(0, 2**16, (500, 40, 4), np.uint16)


def holes() -> Image.Image:
    """A new palette each time: Pillow changes it when it converts the image."""
    image = RGB.quantize(16)
    image.info["transparency"] = 3
    return image


def png_of_16_bits(channels: int, colour_type: int) -> bytes:
    rows = b"".join(b"\0" + row[:, :channels].astype(">u2").tobytes() for row in WIDE)
    return png_file((40, 500, 16, colour_type, 0, 0, 0), chunk(b"IDAT", zlib.compress(rows)))


def upper_bytes(channels: int) -> Image.Image:
    return over_white(Image.fromarray((WIDE[..., :channels] >> 8).astype(np.uint8)))


@pytest.mark.parametrize(
    ("data", "expected", "allowed"),
    [
        pytest.param(saved(BITS, format="PNG"), BITS, 0, id="1"),
        pytest.param(saved(GRAY, format="PNG"), GRAY, 0, id="L"),
        pytest.param(
            saved(RGBA.convert("LA"), format="PNG"), over_white(RGBA.convert("LA")), 1, id="LA"
        ),
        pytest.param(saved(PALETTE, format="PNG"), PALETTE, 0, id="P"),
        pytest.param(saved(holes(), format="PNG"), over_white(holes()), 1, id="P with tRNS"),
        pytest.param(saved(holes(), format="GIF"), over_white(holes()), 1, id="GIF"),
        pytest.param(saved(RGB, format="PNG", transparency=(0, 0, 0)), RGB, 0, id="RGB with tRNS"),
        pytest.param(saved(RGBA, format="PNG"), over_white(RGBA), 1, id="RGBA"),
        pytest.param(
            saved(RGBA, format="WEBP", lossless=True, exact=True),
            over_white(RGBA),
            1,
            id="WebP with alpha",
        ),
        pytest.param(saved(GRAY16, format="PNG"), UPPER, 0, id="I;16"),
        pytest.param(png_of_16_bits(3, 2), upper_bytes(3), 0, id="RGB of 16 bits"),
        pytest.param(png_of_16_bits(2, 4), upper_bytes(2), 1, id="LA of 16 bits"),
        pytest.param(png_of_16_bits(4, 6), upper_bytes(4), 1, id="RGBA of 16 bits"),
        pytest.param(saved(RGB.convert("CMYK"), format="TIFF"), RGB, 0, id="CMYK"),
        pytest.param(
            saved(RGB.convert("CMYK"), format="JPEG", quality=100), RGB, 12, id="CMYK JPEG"
        ),
        pytest.param(
            saved(RGB.convert("YCbCr"), format="JPEG", quality=100), RGB, 12, id="YCbCr JPEG"
        ),
        pytest.param(saved(GRAY, format="JPEG", quality=100), GRAY, 12, id="gray JPEG"),
    ],
)
def test_every_mode_becomes_rgb(data, expected, allowed):
    with Image.open(io.BytesIO(data)) as image:
        whole = opaque(image).convert("RGB")
    expected = expected.convert("RGB")
    assert np.abs(np.asarray(whole, int) - np.asarray(expected, int)).max() <= allowed
    pixels = read_pixels(io.BytesIO(data), 299, 0.875)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (299, 299, 3))
    centre = [side * part for part in (1 / 16, 15 / 16) for side in expected.size]
    by_hand = expected.resize((299, 299), Image.Resampling.BILINEAR, centre)
    assert np.abs(pixels.astype(int) - np.asarray(by_hand, int)).max() <= allowed


@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_as_their_exif_data_say(tmp_path, orientation):
    upright, file = smooth_image(500, 375), tmp_path / "photo.png"
    stored = upright.transpose(STORED[orientation]) if orientation in STORED else upright
    file.write_bytes(saved(stored, format="PNG", exif=orientation_exif(orientation)))
    assert (read_pixels(file, 299, 0.875) == np.asarray(resize(upright, 299, 0.875))).all()


@pytest.fixture(scope="module")
def large() -> bytes:
    """A JPEG of 12 megapixels."""
    return saved(smooth_image(4000, 3000), format="JPEG", quality=95)


@pytest.mark.parametrize(
    ("size", "share", "decoded"),
    [
        (299, 0.875, (500, 375)),
        (375, 1, (500, 375)),
        (376, 1, (1000, 750)),
        (3000, 1, (4000, 3000)),
    ],
)
def test_large_jpeg_is_decoded_at_a_smaller_scale_but_never_below_what_is_needed(
    large, size, share, decoded
):
    with Image.open(io.BytesIO(large)) as image:
        model_pixels(image, size, share)
        assert image.size == decoded


@pytest.mark.parametrize("share", [1.0, 0.875])
def test_the_smaller_scale_shows_the_model_the_same_image(tmp_path, large, share):
    (tmp_path / "large.jpg").write_bytes(large)
    at_full_scale = np.asarray(resize(Image.open(tmp_path / "large.jpg"), 299, share), int)
    assert np.abs(at_full_scale - read_pixels(tmp_path / "large.jpg", 299, share)).mean() < 1.5


HANDLER = """
import pathlib, sys, zlib
import numpy as np
import lambda_function
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    for size, share in ((299, 0.875), (150, 1.0)):
        pixels = lambda_function.read_image(file.read_bytes(), size, share, {})
        assert pixels.dtype == np.float32 and pixels.shape == (size, size, 3)
        assert (pixels == pixels.astype(np.uint8)).all()
        print(file.name, size, zlib.crc32(pixels.astype(np.uint8)))
"""


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_handler_and_training_see_the_same_pixels(colour_model, tmp_path):
    """From bytes in memory, within the handler's limits, and from files, to the last bit."""
    noise = Image.effect_noise((1008, 756), 60)
    cases = [
        (name, data) for part in (odd_images.modes, odd_images.turned) for name, data, _ in part()
    ]
    for kind, orientation, progressive in itertools.product(
        ("L", "RGB", "CMYK"), (1, 6, 8), (False, True)
    ):
        image = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).convert(kind)
        options = {"exif": orientation_exif(orientation), "progressive": progressive}
        cases.append(
            (f"{kind}_{orientation}_{progressive}.jpg", saved(image, format="JPEG", **options))
        )
    for name, data in cases:
        (tmp_path / name).write_bytes(data)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(cases) >= 140
    done = run_python(HANDLER, tmp_path, MODEL_FILE=str(colour_model))
    trained = [
        f"{file.name} {size} {zlib.crc32(read_pixels(file, size, share))}"
        for file, (size, share) in itertools.product(files, ((299, 0.875), (150, 1.0)))
    ]
    assert done.stdout.splitlines() == trained, done.stderr


def test_a_lossless_jpeg_keeps_its_scale():
    """With another scale the process ended."""
    for content, side in (
        (odd_images.jpeg_head(b"\xc3", 2800, 2800, 1), 2800),
        (saved(Image.new("RGB", (2800, 2800)), format="JPEG"), 350),
    ):
        with Image.open(io.BytesIO(content)) as image:
            scale_down(image, 64)
            assert image.size == (side, side)


def lower_limit(megabytes: int) -> None:
    """Limit this process's data for good, as `ulimit -d` does."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + megabytes * 10**6,) * 2)


@pytest.mark.parametrize("megabytes", [10_000, 120])
def test_a_lower_limit_of_memory_leaves_sound_photos_sound(colour_model, megabytes):
    with handler_process(colour_model, lower_limit, megabytes) as ask:
        for data in (odd_images.JPEG, saved(odd_images.drawn_image(3000, 2000), format="PNG")):
            answer = ask({"image": base64.b64encode(data).decode()}).answer
            assert next(iter(answer["prediction"])) == odd_images.BREED
        large = saved(Image.new("RGB", (7000, 7000), "red"), format="PNG")
        answer = ask({"image": base64.b64encode(large).decode()}).answer
        code = answer.get("error", {}).get("code")
        assert code == (None if megabytes > 240 else "too_large")
