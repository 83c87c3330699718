"""What the service sees of a picture is what training saw of it: the same pixels, to the last bit."""

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from odd_pictures import chunk, orientation_exif, png_file, saved
from PIL import Image

import data_selection

pytest_plugins = ["handler_fixtures"]
ROOT = Path(__file__).parent.parent
HANDLER = """
import pathlib, sys
import numpy as np
import lambda_function
for size, share in ((299, 0.875), (150, 1.0)):
    for file in sorted(pathlib.Path(sys.argv[1]).glob("*.*")):
        pixels = lambda_function.read_picture(file.read_bytes(), size, share, {})
        assert pixels.dtype == np.float32 and pixels.shape == (size, size, 3)
        assert (pixels == pixels.astype(np.uint8)).all()
        pixels.astype(np.uint8).tofile(pathlib.Path(sys.argv[1]) / f"{size}" / file.name)
"""


def scene(width: int, height: int, seed: int) -> Image.Image:
    """A picture with slopes, edges and noise in all channels, which repeats itself after some 500 pixels."""
    random = np.random.default_rng(seed)
    rows, columns = 487, 509
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    waves = [128 + 100 * np.sin(x / random.uniform(2, 40) + y / random.uniform(2, 40)) for _ in range(3)]
    tile = (np.stack(waves, 2) + random.normal(0, 20, (rows, columns, 3))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.tile(tile, (height // rows + 1, width // columns + 1, 1))[:height, :width])


def pictures() -> Iterator[tuple[str, bytes]]:
    """Names and contents: all modes, orientations, sizes and formats."""
    formats = {
        "jpg": {"format": "JPEG", "quality": 92},
        "png": {"format": "PNG", "compress_level": 1},
        "webp": {"format": "WEBP", "method": 0},
    }
    for number, (width, height) in enumerate([(500, 375), (333, 500), (61, 47), (320, 700), (640, 480)]):
        for kind, options in formats.items():
            for orientation in range(9):
                image = scene(width, height, number)
                yield f"{width}_{orientation}.{kind}", saved(image, exif=orientation_exif(orientation), **options)
    for width, height in [
        (4032, 3024),
        (3000, 4000),
        (2400, 1200),
        (1197, 598),
        (1195, 1196),
        (5000, 700),
        (600, 9000),
    ]:
        for orientation, options in ((1, {}), (6, {"progressive": True}), (8, {"subsampling": "4:4:4"})):
            exif = orientation_exif(orientation)
            yield (
                f"large_{width}_{orientation}.jpg",
                saved(scene(width, height, 5), format="JPEG", exif=exif, **options),
            )
    image, large = scene(400, 300, 6), scene(2500, 1900, 7)
    alpha = image.getchannel(0)
    rgba = image.copy()
    rgba.putalpha(alpha)
    gray, gray_alpha = image.convert("L"), Image.merge("LA", (image.convert("L"), alpha))
    wide = np.asarray(gray, np.uint16) * 257 + np.asarray(alpha)
    for name, one in {"rgb": image, "gray": gray, "bits": gray.convert("1"), "palette": image.quantize(64)}.items():
        for kind in ("png", "gif", "bmp"):
            yield f"{name}.{kind}", saved(one, format=kind.upper())
    for name, one in {"rgba": rgba, "gray_alpha": gray_alpha, "palette_alpha": rgba.quantize(64)}.items():
        for kind in ("png", "webp", "gif"):
            yield f"{name}.{kind}", saved(one, format=kind.upper())
            turned = (
                saved(one, format=kind.upper(), exif=orientation_exif(5)) if kind != "gif" else saved(one, format="GIF")
            )
            yield f"{name}_5.{kind}", turned
    for name, one in {
        "rgb": image,
        "gray": gray,
        "cmyk": image.convert("CMYK"),
        "ycbcr": image.convert("YCbCr"),
    }.items():
        yield f"{name}.jpg", saved(one, format="JPEG")
        yield f"{name}_progressive.jpg", saved(one, format="JPEG", progressive=True)
    for name, one in {"gray": large.convert("L"), "cmyk": large.convert("CMYK")}.items():
        yield f"large_{name}.jpg", saved(one, format="JPEG", exif=orientation_exif(3))
    yield "gray_16.png", saved(Image.fromarray(wide.astype(np.uint16)), format="PNG")
    yield "gray_16_turned.png", saved(Image.fromarray(wide.astype(np.uint16)), format="PNG", exif=orientation_exif(7))
    yield (
        "gray_16_clear.png",
        saved(Image.fromarray(wide.astype(np.uint16)), format="PNG", transparency=int(wide[0, 0])),
    )
    rows = np.random.default_rng(8).integers(0, 2**16, (50, 40, 4), np.uint16).astype(">u2")
    for colour_type, channels in ((2, 3), (4, 2), (6, 4)):
        data = b"".join(b"\0" + row[:, :channels].tobytes() for row in rows)
        header = (40, 50, 16, colour_type, 0, 0, 0)
        yield f"16_bits_{channels}.png", png_file(header, chunk(b"IDAT", zlib.compress(data)))
    colour = image.getpixel((9, 9))
    yield "clear_colour.png", saved(image, format="PNG", transparency=colour)
    yield "clear_gray.png", saved(gray, format="PNG", transparency=gray.getpixel((9, 9)))
    yield "clear_index.png", saved(image.quantize(64), format="PNG", transparency=3)
    yield "clear_index.gif", saved(image.quantize(64), format="GIF", transparency=3)
    yield "clear_indices.png", saved(image.quantize(64), format="PNG", transparency=bytes(range(0, 256, 4)))
    yield "animated.gif", saved(image, format="GIF", save_all=True, append_images=[scene(400, 300, 9)])
    yield "animated.webp", saved(rgba, format="WEBP", save_all=True, append_images=[scene(400, 300, 9)])
    yield "animated.png", saved(rgba, format="PNG", save_all=True, append_images=[scene(400, 300, 9)])
    yield "stereo.jpg", saved(large, format="MPO", save_all=True, append_images=[image], exif=orientation_exif(6))
    yield "tall.png", saved(rgba.resize((90, 1500)), format="PNG")  # several strips of in_rgb
    yield "bits_alpha.png", saved(gray.convert("1"), format="PNG", transparency=0)


def test_handler_and_training_see_the_same_pixels(colour_model, tmp_path):
    names = []
    for name, data in pictures():
        (tmp_path / name).write_bytes(data)
        names.append(name)
    assert len(names) == len(set(names)) >= 200
    for size in (299, 150):
        (tmp_path / str(size)).mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MODEL_FILE": str(colour_model)}
    subprocess.run([sys.executable, "-c", HANDLER, tmp_path], check=True, env=env)
    for size, share in ((299, 0.875), (150, 1.0)):
        for name in names:
            training = np.asarray(data_selection.read_pixels(tmp_path / name, size, share))
            service = np.fromfile(tmp_path / str(size) / name, np.uint8).reshape(training.shape)
            difference = np.abs(training.astype(int) - service).max()
            assert difference == 0, f"{name} at {size}: up to {difference} levels"


def test_pictures_differ_from_each_other(tmp_path):
    """The comparison above would see a turn or a lost channel."""
    image = scene(500, 375, 0)
    files = {}
    for orientation in (1, 3, 6):
        files[orientation] = tmp_path / f"{orientation}.jpg"
        files[orientation].write_bytes(saved(image, format="JPEG", exif=orientation_exif(orientation)))
    pixels = {
        o: np.asarray(data_selection.resize(data_selection.read_photo(file, 299), 299)) for o, file in files.items()
    }
    assert np.abs(pixels[1].astype(int) - pixels[3]).max() > 50 < np.abs(pixels[1].astype(int) - pixels[6]).max()
