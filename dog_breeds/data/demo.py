"""Draw the demo dataset: 144 photos of dogs with annotations, in archives like the real ones.

Every run draws the same photos.
"""

import io
import random
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from dog_breeds.console import with_progress
from dog_breeds.data.archives import ARCHIVES
from dog_breeds.data.dataset import Box
from dog_breeds.data.demo_drawings import DEMO_BREEDS, Colour, draw_dog, shaded
from dog_breeds.workers import map_in_processes

BACKGROUNDS = {  # colours of the sky or wall, the ground, the things on it and its specks
    "meadow": ((150, 200, 240), (112, 170, 84), (60, 120, 62), (250, 230, 120)),
    "beach": ((160, 214, 240), (232, 212, 160), (70, 150, 190), (206, 184, 130)),
    "snow": ((186, 206, 228), (226, 234, 244), (70, 100, 96), (255, 255, 255)),
    "autumn": ((226, 200, 160), (160, 110, 62), (206, 110, 40), (220, 140, 50)),
    "street": ((236, 176, 140), (128, 124, 128), (140, 104, 98), (112, 108, 112)),
    "room": ((196, 190, 178), (164, 116, 76), (160, 70, 70), (148, 104, 68)),
}
PHOTO_SIZES = [(500, 375)] * 5 + [(500, 333)] * 2 + [(375, 500), (333, 500), (400, 300)]  # pixels


def draw_demo(folder: Path) -> dict[str, Path]:
    """Draw the demo dataset into two archives in `folder`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = {name: folder / name for name in ARCHIVES}
    tasks = [
        (name, number)
        for name, breed in DEMO_BREEDS.items()
        for number in range(1, breed["photos"] + 1)
    ]
    with (
        tarfile.open(archives["images.tar"], "w") as images,
        tarfile.open(archives["annotation.tar"], "w") as annotations,
    ):
        drawn = with_progress(map_in_processes(_draw_jpeg, tasks), "drawing", len(tasks), "photos")
        for (name, number), (jpeg, size, boxes) in zip(tasks, drawn, strict=True):
            image_id = f"{_wnid(name)}_{900_000 + number}"  # a number that no real photo has
            _add_file(images, f"Images/{name}/{image_id}.jpg", jpeg)
            _add_file(
                annotations,
                f"Annotation/{name}/{image_id}",
                _voc_xml(name, image_id, size, boxes).encode(),
            )
    return archives


def _wnid(name: str) -> str:
    """Return the WordNet ID of a class folder: n02085936 for n02085936-Maltese_dog."""
    return name.split("-")[0]


def _draw_jpeg(name: str, number: int) -> tuple[bytes, tuple[int, int], list[Box]]:
    """Draw photo `number` of a breed; return the JPEG, its width and height, and the boxes.

    Runs in a worker process.
    """
    image, boxes = draw_photo(DEMO_BREEDS[name], random.Random(f"{_wnid(name)}_{number}"))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=92)
    return jpeg.getvalue(), image.size, boxes


def draw_photo(breed: dict, rng: random.Random) -> tuple[Image.Image, list[Box]]:
    """Draw a dog of a breed on a background, sometimes with a puppy.

    Returns the RGB image and the boxes; the box of the large dog comes first.
    """
    w, h = rng.choice(PHOTO_SIZES)
    # Twice the size, scaled down, because ImageDraw does not smooth edges
    image = _draw_background((2 * w, 2 * h), rng).resize((w, h), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    boxes = []
    # The height of each dog as a share of the photo; one photo in eight has a puppy
    for share in (rng.uniform(0.62, 0.90), 0.33)[: 1 + (rng.random() < 0.12)]:
        dog = draw_dog(breed, rng)
        if rng.random() < 0.5:
            dog = dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = min(share * h / dog.height, 0.96 * w / dog.width)
        dog = dog.resize(
            (int(dog.width * scale), int(dog.height * scale)), Image.Resampling.LANCZOS
        )
        x, y = rng.randint(0, w - dog.width), int(h * rng.uniform(0.90, 0.98)) - dog.height
        shadow = Image.new("L", (w, h))
        shadow_box = (
            x + 0.08 * dog.width,
            y + 0.93 * dog.height,
            x + 0.92 * dog.width,
            y + 1.03 * dog.height,
        )
        ImageDraw.Draw(shadow).ellipse(shadow_box, 120)
        image.paste((30, 30, 40), (0, 0), shadow.filter(ImageFilter.GaussianBlur(6)))
        image.paste(dog, (x, y), dog)
        boxes.append((x, y, x + dog.width - 1, y + dog.height - 1))
    if rng.random() < 0.25:  # a ball
        x, y, r, ball = (
            rng.uniform(0, w),
            0.94 * h,
            0.035 * h,
            tuple(rng.randint(90, 250) for _ in range(3)),
        )
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), ball, shaded(ball, 0.6), 2)
    return image, boxes


def _draw_background(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a background with a ground for the dog, in a random brightness."""
    w, h = size
    place, tint, horizon = (
        rng.choice(list(BACKGROUNDS)),
        rng.uniform(0.82, 1.05),
        h * rng.uniform(0.48, 0.62),
    )
    sky, ground, things, speck = (shaded(colour, tint) for colour in BACKGROUNDS[place])
    image = Image.new("RGB", size, sky)
    draw = ImageDraw.Draw(image)

    def oval(x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), colour)

    if place == "room":
        wall = tuple(rng.randint(150, 215) for _ in range(3))
        for x in range(0, w, w // 14):
            draw.rectangle((x, 0, x + w // 14, horizon), shaded(wall, rng.uniform(0.97, 1.03)))
        x, y = rng.uniform(0.05, 0.65) * w, 0.08 * h
        draw.rectangle((x, y, x + 0.28 * w, y + 0.3 * h), (164, 208, 240), (246, 244, 240), h // 50)
        draw.line((x + 0.14 * w, y, x + 0.14 * w, y + 0.3 * h), (246, 244, 240), h // 70)
    else:
        # The sky is lighter near the horizon, with a sun and clouds
        glow = Image.linear_gradient("L").resize((w, int(horizon)))
        image.paste(shaded(sky, 1.18), (0, 0), glow)
        oval(rng.uniform(0, w), rng.uniform(0.05, 0.25) * h, 0.06 * h, 0.06 * h, (255, 240, 190))
        for _ in range(rng.randint(0, 4)):
            x, y = rng.uniform(0, w), rng.uniform(0.06, 0.3) * h
            for k in (-1, 0, 1):  # a cloud of three ovals
                oval(
                    x + k * 0.07 * h,
                    y - 0.02 * h * (k == 0),
                    0.08 * h,
                    0.035 * h,
                    shaded((250, 250, 252), tint),
                )
    if place in ("meadow", "snow", "autumn"):
        for _ in range(3):  # hills
            hill = shaded(ground, rng.uniform(0.72, 0.9))
            oval(
                rng.uniform(0, w),
                horizon + 0.1 * h,
                rng.uniform(0.3, 0.6) * w,
                rng.uniform(0.15, 0.3) * h,
                hill,
            )
    if place == "beach":
        draw.rectangle((0, horizon - 0.12 * h, w, horizon), things)
        for _ in range(8):  # waves
            x, y = rng.uniform(0, w), rng.uniform(horizon - 0.1 * h, horizon)
            draw.line((x, y, x + 0.1 * w, y), (220, 240, 246), 3)
    x = 0
    while place == "street" and x < w:  # a row of houses with windows
        wide, roof = rng.uniform(0.12, 0.22) * w, horizon - rng.uniform(0.3, 0.55) * h
        draw.rectangle(
            (x, roof, x + wide, horizon),
            tuple(round(value * rng.uniform(0.7, 1.2)) for value in things),
        )
        for column in range(3):
            for row in range(4):
                left, upper = x + wide * (0.13 + 0.28 * column), roof + (0.04 + 0.11 * row) * h
                colour = rng.choice([(250, 220, 140), (70, 70, 90)])
                draw.rectangle((left, upper, left + 0.17 * wide, upper + 0.055 * h), colour)
        x += wide
    draw.rectangle((0, horizon, w, h), ground)
    if place == "room":
        draw.rectangle((0, horizon - 0.02 * h, w, horizon), (236, 230, 222))
        rug = tuple(rng.randint(60, 170) for _ in range(3))
        oval(w / 2, 0.85 * h, rng.uniform(0.3, 0.5) * w, 0.11 * h, rug)
        oval(w / 2, 0.85 * h, 0.28 * w, 0.08 * h, shaded(rug, 1.15))
    for _ in range(rng.randint(3, 7) if place in ("meadow", "snow", "autumn") else 0):  # trees
        x, y, r = (
            rng.uniform(0, w),
            horizon + rng.uniform(-0.02, 0.05) * h,
            rng.uniform(0.05, 0.11) * h,
        )
        draw.rectangle((x - 0.15 * r, y - 2 * r, x + 0.15 * r, y), (96, 70, 50))
        for k in range(3):
            half, base = r * (1.1 - 0.25 * k), y - (1 + 0.8 * k) * r
            leaves = shaded(things, rng.uniform(0.8, 1.15))
            draw.polygon([(x - half, base), (x + half, base), (x, base - 1.4 * r)], leaves)
    for _ in range(90):  # specks, larger towards the viewer
        x, y = rng.uniform(0, w), rng.uniform(horizon, h)
        s = 2 + 5 * (y - horizon) / h
        oval(x, y, 1.4 * s, 0.7 * s, shaded(rng.choice([speck, ground]), rng.uniform(0.85, 1.1)))
    return image


def _voc_xml(folder: str, image_id: str, size: tuple[int, int], boxes: list[Box]) -> str:
    """Return the Pascal VOC annotation of a photo, in the form of the real dataset."""
    wnid, name = folder.split("-", 1)
    objects = "".join(
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{xmin}</xmin>\n\t\t\t<ymin>{ymin}</ymin>\n"
        f"\t\t\t<xmax>{xmax}</xmax>\n\t\t\t<ymax>{ymax}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for xmin, ymin, xmax, ymax in boxes
    )
    return (
        f"<annotation>\n\t<folder>{wnid[1:]}</folder>\n\t<filename>{image_id}</filename>\n\t<source>\n"
        "\t\t<database>Demo drawings</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size[0]}</width>\n"
        f"\t\t<height>{size[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segment>0</segment>\n{objects}</annotation>"
    )


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to an open tar archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
