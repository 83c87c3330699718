"""Draw dogs of ten breeds for the demo dataset. Each dog differs a little from the others."""

import math
import random
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFilter

# The breeds by the folder names of the real dataset, with their numbers of photos. Lengths are
# shares of the canvas height: "leg" and "snout" are lengths, "body" is length and depth, "head" a
# radius, "neck" the height of the head above the back, and "fur" the length of tufts. "coat" is the
# main colour, "light" the colour of mane, beard, socks and muzzle. Features that only some breeds
# have are at the end.
DEMO_BREEDS: dict[str, dict[str, Any]] = {
    "n02085936-Maltese_dog": {
        "photos": 18, "leg": 0.13, "body": (0.42, 0.23), "head": 0.125, "snout": 0.050,
        "neck": 0.08, "fur": 0.04, "coat": (252, 251, 249), "light": (240, 238, 234),
        "ears": "drape", "ear": (236, 229, 218), "tail": "plume", "skirt": 0.19, "bow": True,
    },
    "n02088094-Afghan_hound": {
        "photos": 17, "leg": 0.37, "body": (0.41, 0.20), "head": 0.080, "snout": 0.135,
        "neck": 0.20, "fur": 0.03, "coat": (218, 176, 116), "light": (240, 214, 168),
        "ears": "drape", "ear": (190, 138, 76), "tail": "ring", "mask": (66, 46, 36), "skirt": 0.13,
        "trousers": True,
    },
    "n02092002-Scottish_deerhound": {
        "photos": 16, "leg": 0.39, "body": (0.45, 0.17), "head": 0.078, "snout": 0.130,
        "neck": 0.16, "fur": 0.07, "coat": (104, 116, 138), "light": (156, 166, 184),
        "ears": "fold", "ear": (58, 62, 76), "tail": "low", "beard": True,
    },
    "n02112018-Pomeranian": {
        "photos": 15, "leg": 0.13, "body": (0.33, 0.28), "head": 0.118, "snout": 0.042,
        "neck": 0.08, "fur": 0.11, "coat": (238, 140, 48), "light": (254, 202, 128),
        "ears": "prick", "ear": (150, 74, 40), "tail": "curl", "mane": 0.19,
    },
    "n02107683-Bernese_mountain_dog": {
        "photos": 14, "leg": 0.23, "body": (0.48, 0.26), "head": 0.125, "snout": 0.080,
        "neck": 0.12, "fur": 0.04, "coat": (40, 38, 42), "light": (250, 248, 244), "ears": "drop",
        "ear": (26, 24, 28), "tail": "low", "rust": (182, 92, 38), "blaze": True,
    },
    "n02111889-Samoyed": {
        "photos": 14, "leg": 0.22, "body": (0.43, 0.27), "head": 0.120, "snout": 0.070,
        "neck": 0.11, "fur": 0.08, "coat": (255, 255, 254), "light": (244, 246, 250),
        "ears": "prick", "ear": (232, 190, 184), "tail": "curl", "mane": 0.18,
    },
    "n02090721-Irish_wolfhound": {
        "photos": 14, "leg": 0.33, "body": (0.50, 0.26), "head": 0.098, "snout": 0.130,
        "neck": 0.17, "fur": 0.08, "coat": (156, 138, 112), "light": (204, 188, 160),
        "ears": "fold", "ear": (84, 70, 56), "tail": "sickle", "beard": True,
        "stripes": (84, 62, 46),
    },
    "n02086240-Shih-Tzu": {
        "photos": 13, "leg": 0.12, "body": (0.44, 0.24), "head": 0.138, "snout": 0.020,
        "neck": 0.08, "fur": 0.04, "coat": (248, 245, 238), "light": (250, 247, 242),
        "ears": "drape", "ear": (140, 86, 40), "tail": "plume", "skirt": 0.13,
        "saddle": (188, 130, 68), "face": (188, 130, 68), "blaze": True, "bow": True,
    },
    "n02111500-Great_Pyrenees": {
        "photos": 12, "leg": 0.25, "body": (0.50, 0.28), "head": 0.125, "snout": 0.085,
        "neck": 0.12, "fur": 0.06, "coat": (247, 243, 233), "light": (238, 231, 216),
        "ears": "drop", "ear": (176, 142, 100), "tail": "low", "mane": 0.15,
        "patch": (196, 166, 126),
    },
    "n02111129-Leonberg": {
        "photos": 11, "leg": 0.25, "body": (0.50, 0.27), "head": 0.125, "snout": 0.090,
        "neck": 0.12, "fur": 0.06, "coat": (190, 120, 56), "light": (222, 164, 96), "ears": "drop",
        "ear": (50, 36, 30), "tail": "low", "mane": 0.17, "mask": (38, 30, 28),
    },
}  # fmt: skip
GROUND_Y = 0.95  # height of the paws on the canvas, measured from the top
CANVAS = 640  # height in pixels; photos show the dog about half as large, which smooths edges

Colour = tuple[int, int, int]
Point = tuple[float, float]


def shaded(colour: Colour, factor: float) -> Colour:
    """Return a darker (factor below 1) or lighter colour."""
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


class _Pen:
    """A pen that draws furry shapes on a transparent canvas. Lengths are shares of its height."""

    def __init__(self, rng: random.Random) -> None:
        """Start with an empty canvas, 5/4 as wide as high."""
        self.rng = rng
        self.image = Image.new("RGBA", (CANVAS * 5 // 4, CANVAS))
        self.draw = ImageDraw.Draw(self.image)

    def shape(self, points: list[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * CANVAS, y * CANVAS) for x, y in points], colour)

    def dot(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse."""
        self.draw.ellipse([value * CANVAS for value in (x - rx, y - ry, x + rx, y + ry)], colour)

    def lock(self, x: float, y: float, length: float, colour: Colour, lean: float = 0) -> None:
        """Draw a lock of hair that hangs from (x, y). `lean` moves its tip to the right."""
        half, tone = 0.005 + 0.06 * length, shaded(colour, self.rng.uniform(0.84, 1.05))
        self.shape(
            [
                (x - half, y),
                (x + half, y),
                (x + lean + self.rng.uniform(-0.25, 0.25) * length, y + length),
            ],
            tone,
        )

    def fringe(
        self, x0: float, x1: float, y: float, length: float, colour: Colour, lean: float = 0
    ) -> None:
        """Draw a row of locks from x0 to x1 at the height y."""
        number = max(3, int((x1 - x0) * 110))
        for k in range(number):
            x = x0 + (x1 - x0) * (k + self.rng.random()) / number
            self.lock(
                x,
                y + self.rng.uniform(-0.01, 0.01),
                length * self.rng.uniform(0.8, 1.1),
                colour,
                lean,
            )

    def blob(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, fur: float, edge: float = 1
    ) -> None:
        """Draw a furry ellipse: tufts around it, locks on it.

        `edge` is the brightness of its rim, relative to its colour. 1 means no rim.
        """
        number = int((rx + ry) * 70) + 10
        # Every second point of the outline sticks out
        tufts = [fur * self.rng.uniform(0.3, 0.7) * (k % 2) for k in range(2 * number)]
        for rim, tone in (
            ((0.006, shaded(colour, edge)), (0, colour)) if edge != 1 else ((0, colour),)
        ):
            outline = []
            for k, tuft in enumerate(tufts):
                angle = math.pi * k / number
                out = rim + tuft
                outline.append(
                    (x + (rx + out) * math.cos(angle), y + (ry + out) * math.sin(angle) + tuft / 2)
                )
            self.shape(outline, tone)
        for _ in range(int(rx * ry * 900)):
            # The square root spreads the locks evenly over the area
            angle, radius = self.rng.uniform(0, 2 * math.pi), 0.85 * math.sqrt(self.rng.random())
            self.lock(
                x + rx * radius * math.cos(angle),
                y + ry * radius * math.sin(angle),
                0.02 + fur / 3,
                colour,
            )

    def limb(
        self,
        path: tuple[Point, Point, Point],
        widths: tuple[float, float],
        colour: Colour,
        fur: float,
        tip: Colour | None = None,
        edge: float = 1,
    ) -> None:
        """Draw a leg, neck, tail or ear along a quadratic Bézier curve.

        `path` holds the three control points, `widths` the radius at the start and at the end. The
        last quarter has the colour `tip`. `edge` is the brightness of the rim, as for `blob`.
        """
        discs = []  # x, y, radius, colour
        for k in range(17):
            t = k / 16
            x, y = (
                a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2
                for a, b, c in zip(*path, strict=True)
            )
            discs.append(
                (x, y, widths[0] + (widths[1] - widths[0]) * t, tip if tip and t > 0.72 else colour)
            )
        if edge != 1:
            for x, y, width, tone in discs:
                self.dot(x, y, width + 0.006, width + 0.006, shaded(tone, edge))
        for x, y, width, tone in discs:
            self.dot(x, y, width, width, tone)
        for x, y, width, tone in discs:
            for _ in range(3 if fur else 0):
                self.lock(x + self.rng.uniform(-0.9, 0.9) * width, y, 0.01 + fur * 0.4, tone)


def draw_dog(breed: dict, rng: random.Random) -> Image.Image:
    """Draw a dog of a breed; return an RGBA image, cropped to the dog. `rng` varies the dog."""
    pen = _Pen(rng)
    leg, length, depth, neck = (
        value * rng.uniform(0.93, 1.07) for value in (breed["leg"], *breed["body"], breed["neck"])
    )
    back, front, top = 0.57 - length / 2, 0.57 + length / 2, GROUND_Y - leg - depth
    head = (front + 0.03 + rng.uniform(-0.02, 0.02), top + 0.22 * depth - neck)
    _draw_body(pen, breed, back, front, top, depth, head)
    _draw_head(pen, breed, *head, breed["head"] * rng.uniform(0.95, 1.07))

    # A dark contour: a slightly enlarged silhouette that is visible around the dog
    silhouette = (
        pen.image.getchannel("A")
        .filter(ImageFilter.BoxBlur(2))
        .point(lambda value: min(255, 5 * value))
    )
    dog = Image.new("RGBA", pen.image.size, (*shaded(breed["coat"], 0.5), 0))
    dog.putalpha(silhouette)
    dog.alpha_composite(pen.image)
    dog = dog.crop(dog.getbbox())
    tint = rng.uniform(0.93, 1)
    # Light from above: the lower parts are a quarter darker
    light = (
        Image.linear_gradient("L")
        .resize(dog.size)
        .point(lambda value: int(tint * (255 - value / 4)))
    )
    result = ImageChops.multiply(dog.convert("RGB"), Image.merge("RGB", [light] * 3))
    result.putalpha(dog.getchannel("A"))
    return result


def _draw_body(
    pen: _Pen, breed: dict, back: float, front: float, top: float, depth: float, head: Point
) -> None:
    """Draw the tail, legs, trunk and neck.

    The trunk reaches from x = `back` to x = `front`, and from y = `top` down to `top` + `depth`.
    """
    rng, coat, light, fur = pen.rng, breed["coat"], breed["light"], breed["fur"]
    length, leg, lift = front - back, GROUND_Y - top - depth, rng.uniform(-0.03, 0.03)
    root = (back + 0.04, top + 0.26 * depth)
    # Hanging tails come first, because the trunk covers their root
    if breed["tail"] == "low":
        path = (
            root,
            (back - 0.13, top + 0.3 * depth + lift),
            (back - 0.09, GROUND_Y - 0.6 * leg + lift),
        )
        pen.limb(
            path, (0.02 + fur / 4, 0.014 + fur / 6), coat, fur, light if "rust" in breed else None
        )
    elif breed["tail"] == "sickle":
        path = (root, (back - 0.12, GROUND_Y - 0.5 * leg), (back - 0.20, top + 0.7 * depth + lift))
        pen.limb(path, (0.03, 0.014), coat, fur)
    elif breed["tail"] == "ring":
        bend = (back - 0.11, top - 0.16 + lift)
        pen.limb((root, (back - 0.15, top + 0.04), bend), (0.02, 0.012), coat, fur)
        pen.limb(
            (bend, (back - 0.05, top - 0.29 + lift), (back - 0.02, top - 0.14 + lift)),
            (0.012, 0.009),
            coat,
            fur,
        )

    stride, width = rng.uniform(-0.04, 0.04), 0.008 + 0.1 * depth + fur / 8
    hind, fore = back + 0.16 * length, front - 0.14 * length
    sock = breed.get("rust")
    for near in (False, True):  # the far pair of legs first, then the near pair over it
        tone = coat if near else shaded(coat, 0.8)
        paw = light if sock else coat
        side = 1 if near else -1
        for x, step, hock in ((hind, side * stride, -0.05), (fore, -side * stride, 0.0)):
            x += 0 if near else 0.07  # the far legs are visible between the near ones
            path = (
                (x, top + 0.7 * depth),
                (x + step / 2 + hock, GROUND_Y - 0.5 * leg),
                (x + step, GROUND_Y - width),
            )
            tip = sock and shaded(sock, 1 if near else 0.8)
            pen.limb(path, (width * (1.9 if hock else 1.5), width), tone, 0.7 * fur, tip, 0.85)
            for rim, shadow in ((0.004, 0.7), (0, 1 if near else 0.85)):
                pen.dot(
                    x + step + 0.4 * width,
                    GROUND_Y - 0.024,
                    1.35 * width + rim,
                    0.024 + rim,
                    shaded(paw, shadow),
                )
            if "trousers" in breed:
                pen.fringe(x - width, x + 1.2 * width, GROUND_Y - leg, 0.85 * leg, tone)
        if not near:  # the trunk covers the far legs
            middle = (back + front) / 2
            pen.blob(middle, top + depth / 2, length / 2, depth / 2, coat, fur)
            pen.blob(
                front - 0.32 * depth, top + 0.52 * depth, 0.44 * depth, 0.56 * depth, coat, fur
            )
            pen.blob(back + 0.36 * depth, top + 0.50 * depth, 0.44 * depth, 0.50 * depth, coat, fur)
            if "saddle" in breed:
                x = middle + rng.uniform(-0.05, 0.03)
                pen.blob(x, top + 0.3 * depth, 0.3 * length, 0.34 * depth, breed["saddle"], fur)
    if breed["tail"] in ("curl", "plume"):  # carried over the back, so drawn over the trunk
        path = (
            (back + 0.05, top + 0.2 * depth),
            (back - 0.09, top - 0.13 + lift),
            (back + 0.10, top - 0.02 + lift),
        )
        pen.limb(
            path,
            (0.025 + fur / 5, 0.035 + fur / 3),
            light if breed["tail"] == "curl" else coat,
            fur,
            edge=0.8,
        )
        if breed["tail"] == "plume":
            pen.fringe(back - 0.03, back + 0.13, top - 0.05 + lift, 0.16, light, -0.03)
    if "mane" in breed:
        pen.blob(
            front - 0.02,
            (head[1] + top + 0.6 * depth) / 2,
            0.75 * breed["mane"],
            breed["mane"],
            light,
            fur,
            0.88,
        )
    else:
        path = ((front - 0.09, top + 0.45 * depth), (front - 0.01, top), head)
        pen.limb(path, (0.38 * depth, 0.7 * breed["head"]), coat, fur)
    if "skirt" in breed:
        pen.fringe(back - 0.02, front + 0.02, GROUND_Y - leg - 0.35 * depth, breed["skirt"], coat)
        pen.fringe(back, front, top + 0.35 * depth, breed["skirt"], breed.get("saddle", light))
    if sock:  # a dog of three colours has a white chest
        pen.blob(front - 0.01, top + 0.40 * depth, 0.055, 0.30 * depth, light, 0.05)
    for _ in range(150 if "stripes" in breed else 0):  # brindle
        x, y = rng.uniform(back, front + 0.02), rng.uniform(top, top + 0.9 * depth)
        pen.lock(x, y, 0.055, breed["stripes"], 0.02)
    if breed["snout"] > 0.1:  # breeds with a long snout wear a collar
        x, y = head
        collar = rng.choice([(206, 52, 52), (52, 98, 196), (240, 190, 60), (70, 150, 90)])
        pen.limb(
            ((x - 0.10, y + 0.07), (x - 0.04, y + 0.14), (x + 0.04, y + 0.12)),
            (0.011, 0.011),
            collar,
            0,
        )


def _draw_head(pen: _Pen, breed: dict, x: float, y: float, r: float) -> None:
    """Draw the head with its centre at (x, y) and the radius r."""
    rng, fur, snout = pen.rng, breed["fur"], breed["snout"]
    coat, light, ear = breed["coat"], breed["light"], breed["ear"]
    face = breed.get("face", coat)
    # Ears behind the head
    if breed["ears"] == "prick":
        for side in (0.6, -0.55):
            for size, tone in ((1.12, shaded(coat, 0.72)), (1.0, coat), (0.55, ear)):
                middle, half = x + side * r, 0.38 * size * r
                tip = (x + 1.15 * side * r, y - (0.75 + 0.75 * size) * r)
                pen.shape([(middle - half, y - 0.5 * r), tip, (middle + half, y - 0.5 * r)], tone)
    elif breed["ears"] == "drop":
        path = (x + 0.7 * r, y - 0.6 * r), (x + 1.05 * r, y - 0.3 * r), (x + 0.95 * r, y + 0.3 * r)
        pen.limb(path, (0.2 * r, 0.26 * r), shaded(ear, 0.85), 0)
    elif breed["ears"] == "drape":
        pen.fringe(x + 0.6 * r, x + 0.95 * r, y - 0.5 * r, 1.6 * r, shaded(ear, 0.85))
    pen.blob(x, y, r, 0.95 * r, face, 0.7 * fur, 0.85)
    if "patch" in breed:
        pen.blob(x - 0.5 * r, y - 0.3 * r, 0.4 * r, 0.5 * r, breed["patch"], 0.02)

    # The muzzle with its centre at (sx, sy), and everything that lies over it; (nx, ny) is the nose
    sx, sy = x + 0.42 * r + snout / 2, y + 0.34 * r
    nx, ny = sx + 0.45 * snout + 0.2 * r, sy - 0.12 * r
    muzzle = breed.get("mask") or (light if "blaze" in breed else face)
    if rng.random() < 0.6:  # a tongue
        pen.dot(nx - 0.2 * r, ny + 0.50 * r, 0.17 * r, 0.27 * r, (214, 92, 104))
        pen.dot(nx - 0.2 * r, ny + 0.48 * r, 0.14 * r, 0.24 * r, (240, 128, 138))
    pen.blob(sx, sy, 0.42 * r + 0.55 * snout, 0.36 * r + 0.1 * snout, muzzle, fur / 5, 0.8)
    if "rust" in breed:
        pen.blob(x - 0.05 * r, y + 0.42 * r, 0.34 * r, 0.3 * r, breed["rust"], 0.01)
    if "mask" in breed:
        pen.blob(x + 0.36 * r, y + 0.02 * r, 0.52 * r, 0.36 * r, breed["mask"], 0.01)
    if "blaze" in breed:
        corners = ((0.26, -0.9), (0.46, -0.9), (0.66, 0.2), (0.2, 0.2))
        pen.shape([(x + u * r, y + v * r) for u, v in corners], light)
    mouth = [
        value * CANVAS for value in (nx - 0.62 * r, ny - 0.10 * r, nx + 0.02 * r, ny + 0.36 * r)
    ]
    pen.draw.arc(mouth, 15, 165, (40, 28, 28), 4)
    if "beard" in breed:
        pen.fringe(sx - 0.3 * r, nx - 0.1 * r, sy + 0.25 * r, 0.55 * r, light)
    pen.dot(nx, ny, 0.17 * r + 0.007, 0.13 * r + 0.006, (26, 22, 24))
    pen.dot(nx - 0.03 * r, ny - 0.05 * r, 0.06 * r, 0.03 * r, (140, 140, 148))
    for side, size in ((0.02, 1.0), (0.62, 0.85)):  # eyes; the far one is smaller
        ex, ey, size = x + side * r, y - 0.12 * r, size * (0.13 * r + 0.002)
        pen.dot(ex, ey, 1.25 * size, 1.3 * size, shaded(breed.get("mask", face), 0.6))
        pen.dot(ex, ey, size, 1.1 * size, (40, 24, 18))
        pen.dot(ex + 0.3 * size, ey - 0.4 * size, 0.36 * size, 0.36 * size, (255, 255, 255))
        if "rust" in breed:
            pen.dot(ex - 0.02 * r, ey - 0.28 * r, 0.11 * r, 0.07 * r, breed["rust"])

    # Ears in front of the head
    if breed["ears"] == "drop":
        path = (
            (x - 0.55 * r, y - 0.65 * r),
            (x - 1.1 * r, y - 0.35 * r),
            (x - 0.85 * r, y + 0.5 * r),
        )
        pen.limb(path, (0.22 * r, 0.34 * r), ear, fur / 2, edge=0.75)
    elif breed["ears"] == "drape":
        pen.fringe(x - 1.05 * r, x - 0.4 * r, y - 0.6 * r, 2.0 * r, ear, -0.01)
    elif breed["ears"] == "fold":
        corners = ((-0.3, -0.9), (-1.0, -0.8), (-1.3, 0.05), (-0.5, -0.35))
        pen.shape([(x + u * r, y + v * r) for u, v in corners], ear)
    if "bow" in breed:
        bow, knot = (
            rng.choice([(214, 48, 70), (238, 120, 170), (80, 120, 210)]),
            (x + 0.05 * r, y - 0.98 * r),
        )
        pen.fringe(knot[0] - 0.2 * r, knot[0] + 0.2 * r, knot[1] - 0.3 * r, 0.36 * r, face)
        for side in (-0.42 * r, 0.42 * r):
            pen.shape(
                [knot, (knot[0] + side, knot[1] - 0.22 * r), (knot[0] + side, knot[1] + 0.22 * r)],
                bow,
            )
        pen.dot(*knot, 0.1 * r, 0.1 * r, shaded(bow, 0.75))
