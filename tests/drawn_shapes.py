"""Images that show no dogs: shapes of any colour, size, place and turn, on any ground."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CORNERS = {"circles": 60, "crosses": 12, "squares": 4, "stars": 10, "triangles": 3}


def draw_shape(
    kind: str, rng: np.random.Generator, size: tuple[int, int] = (320, 240)
) -> Image.Image:
    """Return an image of a shape, drawn at twice the size to be smooth."""
    light, dark = sorted((rng.integers(0, 256, 3) for _ in range(2)), key=lambda c: -c.sum())
    if light.sum() - dark.sum() < 150:
        light, dark = np.minimum(light + 90, 255), np.maximum(dark - 90, 0)
    ground, ink = (light, dark) if rng.random() < 0.5 else (dark, light)
    noise = rng.integers(-12, 13, (size[1] // 8, size[0] // 8, 3))
    image = Image.fromarray((ground + noise).clip(0, 255).astype(np.uint8))
    image = image.resize((2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC)
    radius = rng.uniform(0.5, 0.8) * size[1]
    x, y = (rng.uniform(0.9 * radius, 2 * side - 0.9 * radius) for side in size)
    n, turn = CORNERS[kind], rng.uniform(0, 2 * math.pi)
    points = []
    for corner in range(n):
        angle, reach = turn + 2 * math.pi * corner / n, radius
        if kind == "stars" and corner % 2:
            reach *= 0.4
        if kind == "crosses":  # arms as wide as a third, seen from the centre
            arm, place = divmod(corner, 3)
            offset, reach = ((-0.32, 1.0), (0.32, 1.0), (math.pi / 4, 0.45))[place]
            angle, reach = turn + math.pi / 2 * arm + offset, reach * radius
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    ImageDraw.Draw(image).polygon(points, fill=tuple(int(value) for value in ink))
    return image.resize(size, Image.Resampling.BOX)


def draw_shapes(folder: Path, number: int, seed: int = 0) -> Path:
    """Draw so many images of each shape into sub-folders; return the folder."""
    for kind in CORNERS:
        (folder / kind).mkdir(parents=True)
        for i in range(number):
            rng = np.random.default_rng([seed, i, len(kind), CORNERS[kind]])
            draw_shape(kind, rng).save(folder / kind / f"{i}.png")
    return folder
