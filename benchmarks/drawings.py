"""Draw test images for accuracy.py and robustness.py: unknown dogs, and things. Nothing to run."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dog_breeds import recipe
from dog_breeds.data.demo import draw_photo
from dog_breeds.data.demo_drawings import DEMO_BREEDS
from dog_breeds.learning.features import View


def as_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """Return the bytes of an image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def page_of_text(number: int) -> bytes:
    """Return a page of words. The size depends on the number."""
    rng = np.random.default_rng(number)
    page = Image.new("RGB", (600, 800), "white")
    size = int(rng.integers(14, 40))
    words = rng.permutation(
        ["dog", "breed", "with", "a", "long", "coat", "and", "large", "ears"] * 33
    ).tolist()
    per_line = 1000 // size // 4
    lines = [" ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
    ImageDraw.Draw(page).multiline_text(
        (40, 40), "\n".join(lines[: 500 // size]), "black", font_size=size
    )
    return as_jpeg(page)


def drawn_dog(number: int) -> bytes:
    """Return an image of the demo dataset. It was not drawn for the model under test."""
    breeds = list(DEMO_BREEDS.values())
    return as_jpeg(draw_photo(breeds[number % len(breeds)], random.Random(number))[0])


def drawn_thing(number: int) -> bytes:
    """Return a drawing: a person, a house, a tree with a ball or a chart, in turns."""
    rng = np.random.default_rng(number)
    ground, sky, ink = (tuple(map(int, rng.integers(low, 256, 3))) for low in (0, 120, 0))
    image = Image.new("RGB", (500, 375), sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 260, 500, 375), ground)
    x, y = int(rng.integers(80, 300)), int(rng.integers(60, 120))
    if number % 4 == 0:
        draw.ellipse((x, y - 40, x + 60, y + 20), (230, 190, 160), ink, 3)
        draw.rounded_rectangle((x - 20, y + 20, x + 80, y + 140), 20, ink)
        for dx in (0, 40):
            draw.rectangle((x + dx, y + 140, x + dx + 20, y + 240), ground, ink, 3)
    elif number % 4 == 1:
        draw.rectangle((x, y + 60, x + 160, y + 200), (200, 180, 150), ink, 3)
        draw.polygon([(x - 20, y + 60), (x + 80, y - 30), (x + 180, y + 60)], ink)
        draw.rectangle((x + 60, y + 120, x + 100, y + 200), ground)
    elif number % 4 == 2:
        draw.rectangle((x + 50, y + 60, x + 80, y + 220), (110, 70, 30))
        draw.ellipse((x, y - 50, x + 130, y + 100), (40, 140, 50))
        draw.ellipse((x + 150, y + 190, x + 200, y + 240), ink)
    else:
        for i, height in enumerate(rng.integers(30, 250, 8).tolist()):
            draw.rectangle((60 + 50 * i, 330 - height, 95 + 50 * i, 330), ink)
    return as_jpeg(image)


DRAWINGS = {
    "drawn_dogs": drawn_dog,
    "drawn_people_and_things": drawn_thing,
    "pages_of_text": page_of_text,
}


def draw_non_dogs(folder: Path) -> list[View]:
    """Draw 120 images without dogs (plain, gradients, noise, stripes, discs, blurred). Return their
    views."""
    rng = np.random.default_rng(0)
    views = []
    for i in range(120):
        size = (500, 375)
        colours = [tuple(map(int, rng.integers(0, 256, 3))) for _ in range(3)]
        image = Image.new("RGB", size, colours[0])
        draw = ImageDraw.Draw(image)
        kind = i % 6
        if kind == 1:
            ramp = np.linspace(0, 1, size[0])[None, :, None]
            pixels = np.array(colours[0]) * (1 - ramp) + np.array(colours[1]) * ramp
            image = Image.fromarray(np.broadcast_to(pixels, (size[1], size[0], 3)).astype(np.uint8))
        elif kind == 2:
            image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
        elif kind == 3:
            width = int(rng.integers(5, 40))
            for x in range(0, size[0], 2 * width):
                draw.rectangle((x, 0, x + width, size[1]), fill=colours[1])
        elif kind == 4:
            for _ in range(12):
                x, y, r = rng.integers(0, 500), rng.integers(0, 375), rng.integers(10, 90)
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colours[int(rng.integers(3))])
        elif kind == 5:
            noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            image = noise.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))
        path = folder / f"{i}.png"
        image.save(path)
        views.append(View(path, recipe.PHOTO_SHARE))
    return views
