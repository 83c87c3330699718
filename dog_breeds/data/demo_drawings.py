"""Drawings of ten breeds of dogs, each dog a little different, for the demo set."""

import math
import random
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFilter

# The breeds, under real folder names. Lengths are shares of a square canvas in which the dog stands
# facing right: leg and snout are lengths, body is length and depth, head a radius, neck the rise of
# the head, fur the depth of tufts. coat is the main colour, light that of mane, beard, socks and
# muzzle; what only some breeds have stands last.
DEMO_BREEDS: dict[str, dict[str, Any]] = {
    "n02085936-Maltese_dog": {
        "pictures": 18, "leg": 0.13, "body": (0.42, 0.23), "head": 0.125, "snout": 0.050,
        "neck": 0.08, "fur": 0.04, "coat": (252, 251, 249), "light": (240, 238, 234),
        "ears": "drape", "ear": (236, 229, 218), "tail": "plume", "skirt": 0.19, "bow": True,
    },
    "n02088094-Afghan_hound": {
        "pictures": 17, "leg": 0.37, "body": (0.41, 0.20), "head": 0.080, "snout": 0.135,
        "neck": 0.20, "fur": 0.03, "coat": (218, 176, 116), "light": (240, 214, 168),
        "ears": "drape", "ear": (190, 138, 76), "tail": "ring", "mask": (66, 46, 36), "skirt": 0.13,
        "trousers": True,
    },
    "n02092002-Scottish_deerhound": {
        "pictures": 16, "leg": 0.39, "body": (0.45, 0.17), "head": 0.078, "snout": 0.130,
        "neck": 0.16, "fur": 0.07, "coat": (104, 116, 138), "light": (156, 166, 184),
        "ears": "fold", "ear": (58, 62, 76), "tail": "low", "beard": True,
    },
    "n02112018-Pomeranian": {
        "pictures": 15, "leg": 0.13, "body": (0.33, 0.28), "head": 0.118, "snout": 0.042,
        "neck": 0.08, "fur": 0.11, "coat": (238, 140, 48), "light": (254, 202, 128),
        "ears": "prick", "ear": (150, 74, 40), "tail": "curl", "mane": 0.19,
    },
    "n02107683-Bernese_mountain_dog": {
        "pictures": 14, "leg": 0.23, "body": (0.48, 0.26), "head": 0.125, "snout": 0.080,
        "neck": 0.12, "fur": 0.04, "coat": (40, 38, 42), "light": (250, 248, 244), "ears": "drop",
        "ear": (26, 24, 28), "tail": "low", "rust": (182, 92, 38), "blaze": True,
    },
    "n02111889-Samoyed": {
        "pictures": 14, "leg": 0.22, "body": (0.43, 0.27), "head": 0.120, "snout": 0.070,
        "neck": 0.11, "fur": 0.08, "coat": (255, 255, 254), "light": (244, 246, 250),
        "ears": "prick", "ear": (232, 190, 184), "tail": "curl", "mane": 0.18,
    },
    "n02090721-Irish_wolfhound": {
        "pictures": 14, "leg": 0.33, "body": (0.50, 0.26), "head": 0.098, "snout": 0.130,
        "neck": 0.17, "fur": 0.08, "coat": (156, 138, 112), "light": (204, 188, 160),
        "ears": "fold", "ear": (84, 70, 56), "tail": "sickle", "beard": True,
        "stripes": (84, 62, 46),
    },
    "n02086240-Shih-Tzu": {
        "pictures": 13, "leg": 0.12, "body": (0.44, 0.24), "head": 0.138, "snout": 0.020,
        "neck": 0.08, "fur": 0.04, "coat": (248, 245, 238), "light": (250, 247, 242),
        "ears": "drape", "ear": (140, 86, 40), "tail": "plume", "skirt": 0.13,
        "saddle": (188, 130, 68), "face": (188, 130, 68), "blaze": True, "bow": True,
    },
    "n02111500-Great_Pyrenees": {
        "pictures": 12, "leg": 0.25, "body": (0.50, 0.28), "head": 0.125, "snout": 0.085,
        "neck": 0.12, "fur": 0.06, "coat": (247, 243, 233), "light": (238, 231, 216),
        "ears": "drop", "ear": (176, 142, 100), "tail": "low", "mane": 0.15,
        "patch": (196, 166, 126),
    },
    "n02111129-Leonberg": {
        "pictures": 11, "leg": 0.25, "body": (0.50, 0.27), "head": 0.125, "snout": 0.090,
        "neck": 0.12, "fur": 0.06, "coat": (190, 120, 56), "light": (222, 164, 96), "ears": "drop",
        "ear": (50, 36, 30), "tail": "low", "mane": 0.17, "mask": (38, 30, 28),
    },
}  # fmt: skip
GROUND = 0.95  # where the paws stand on the canvas
CANVAS = 640  # pixels; a dog ends up at about half of this, which smooths its edges

Colour = tuple[int, int, int]
Point = tuple[float, float]


def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker (factor below 1) or lighter."""
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


class Pen:
    """Draws furry shapes on a transparent canvas; lengths are shares of its height."""

    def __init__(self, rng: random.Random) -> None:
        """Start with an empty canvas, wider than high."""
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
        """Draw one lock of hair that hangs from (x, y)."""
        half, tone = 0.005 + 0.06 * length, shade(colour, self.rng.uniform(0.84, 1.05))
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
        """Draw a row of locks from x0 to x1."""
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
        """Fill an ellipse with tufts around it and locks on it, on a rim of its colour times
        `edge`.
        """
        number = int((rx + ry) * 70) + 10
        tufts = [fur * self.rng.uniform(0.3, 0.7) * (k % 2) for k in range(2 * number)]
        for rim, tone in (
            ((0.006, shade(colour, edge)), (0, colour)) if edge != 1 else ((0, colour),)
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
        """Draw a leg, neck, tail or ear along a quadratic Bezier curve, its last quarter in the
        colour `tip`.
        """
        spots = []
        for k in range(17):
            t = k / 16
            x, y = (
                a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2
                for a, b, c in zip(*path, strict=True)
            )
            spots.append(
                (x, y, widths[0] + (widths[1] - widths[0]) * t, tip if tip and t > 0.72 else colour)
            )
        if edge != 1:
            for x, y, width, tone in spots:
                self.dot(x, y, width + 0.006, width + 0.006, shade(tone, edge))
        for x, y, width, tone in spots:
            self.dot(x, y, width, width, tone)
        for x, y, width, tone in spots:
            for _ in range(3 if fur else 0):
                self.lock(x + self.rng.uniform(-0.9, 0.9) * width, y, 0.01 + fur * 0.4, tone)


def draw_dog(look: dict, rng: random.Random) -> Image.Image:
    """Draw a dog of a breed, each a little different; return an RGBA picture cut to the dog."""
    pen = Pen(rng)
    leg, length, depth, neck = (
        value * rng.uniform(0.93, 1.07) for value in (look["leg"], *look["body"], look["neck"])
    )
    back, front, top = 0.57 - length / 2, 0.57 + length / 2, GROUND - leg - depth
    head = (front + 0.03 + rng.uniform(-0.02, 0.02), top + 0.22 * depth - neck)
    draw_body(pen, look, back, front, top, depth, head)
    draw_head(pen, look, *head, look["head"] * rng.uniform(0.95, 1.07))

    # A dark contour: what a slightly grown silhouette leaves visible around the dog
    rim = (
        pen.image.getchannel("A")
        .filter(ImageFilter.BoxBlur(2))
        .point(lambda value: min(255, 5 * value))
    )
    dog = Image.new("RGBA", pen.image.size, (*shade(look["coat"], 0.5), 0))
    dog.putalpha(rim)
    dog.alpha_composite(pen.image)
    dog = dog.crop(dog.getbbox())
    tint = rng.uniform(0.93, 1)
    light = (
        Image.linear_gradient("L")
        .resize(dog.size)
        .point(lambda value: int(tint * (255 - value / 4)))
    )  # from above
    lit = ImageChops.multiply(dog.convert("RGB"), Image.merge("RGB", [light] * 3))
    lit.putalpha(dog.getchannel("A"))
    return lit


def draw_body(
    pen: Pen, look: dict, back: float, front: float, top: float, depth: float, head: Point
) -> None:
    """Draw tail, legs, trunk and neck; the trunk reaches from x = back to x = front and from y =
    top down by depth.
    """
    rng, coat, light, fur = pen.rng, look["coat"], look["light"], look["fur"]
    length, leg, lift = front - back, GROUND - top - depth, rng.uniform(-0.03, 0.03)
    root = (back + 0.04, top + 0.26 * depth)
    if look["tail"] == "low":
        path = (
            root,
            (back - 0.13, top + 0.3 * depth + lift),
            (back - 0.09, GROUND - 0.6 * leg + lift),
        )
        pen.limb(
            path, (0.02 + fur / 4, 0.014 + fur / 6), coat, fur, light if "rust" in look else None
        )
    elif look["tail"] == "sickle":
        path = (root, (back - 0.12, GROUND - 0.5 * leg), (back - 0.20, top + 0.7 * depth + lift))
        pen.limb(path, (0.03, 0.014), coat, fur)
    elif look["tail"] == "ring":
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
    sock = look.get("rust")
    for near in (False, True):
        tone = coat if near else shade(coat, 0.8)
        paw = light if sock else coat
        side = 1 if near else -1
        for x, step, hock in ((hind, side * stride, -0.05), (fore, -side * stride, 0.0)):
            x += 0 if near else 0.07
            path = (
                (x, top + 0.7 * depth),
                (x + step / 2 + hock, GROUND - 0.5 * leg),
                (x + step, GROUND - width),
            )
            tip = sock and shade(sock, 1 if near else 0.8)
            pen.limb(path, (width * (1.9 if hock else 1.5), width), tone, 0.7 * fur, tip, 0.85)
            for rim, shadow in ((0.004, 0.7), (0, 1 if near else 0.85)):
                pen.dot(
                    x + step + 0.4 * width,
                    GROUND - 0.024,
                    1.35 * width + rim,
                    0.024 + rim,
                    shade(paw, shadow),
                )
            if "trousers" in look:
                pen.fringe(x - width, x + 1.2 * width, GROUND - leg, 0.85 * leg, tone)
        if not near:  # the trunk hides the legs behind it
            middle = (back + front) / 2
            pen.blob(middle, top + depth / 2, length / 2, depth / 2, coat, fur)
            pen.blob(
                front - 0.32 * depth, top + 0.52 * depth, 0.44 * depth, 0.56 * depth, coat, fur
            )
            pen.blob(back + 0.36 * depth, top + 0.50 * depth, 0.44 * depth, 0.50 * depth, coat, fur)
            if "saddle" in look:
                x = middle + rng.uniform(-0.05, 0.03)
                pen.blob(x, top + 0.3 * depth, 0.3 * length, 0.34 * depth, look["saddle"], fur)
    if look["tail"] in ("curl", "plume"):  # carried over the back
        path = (
            (back + 0.05, top + 0.2 * depth),
            (back - 0.09, top - 0.13 + lift),
            (back + 0.10, top - 0.02 + lift),
        )
        pen.limb(
            path,
            (0.025 + fur / 5, 0.035 + fur / 3),
            light if look["tail"] == "curl" else coat,
            fur,
            edge=0.8,
        )
        if look["tail"] == "plume":
            pen.fringe(back - 0.03, back + 0.13, top - 0.05 + lift, 0.16, light, -0.03)
    if "mane" in look:
        pen.blob(
            front - 0.02,
            (head[1] + top + 0.6 * depth) / 2,
            0.75 * look["mane"],
            look["mane"],
            light,
            fur,
            0.88,
        )
    else:
        path = ((front - 0.09, top + 0.45 * depth), (front - 0.01, top), head)
        pen.limb(path, (0.38 * depth, 0.7 * look["head"]), coat, fur)
    if "skirt" in look:
        pen.fringe(back - 0.02, front + 0.02, GROUND - leg - 0.35 * depth, look["skirt"], coat)
        pen.fringe(back, front, top + 0.35 * depth, look["skirt"], look.get("saddle", light))
    if sock:  # a tricolour dog has a white chest
        pen.blob(front - 0.01, top + 0.40 * depth, 0.055, 0.30 * depth, light, 0.05)
    for _ in range(150 if "stripes" in look else 0):  # brindle
        x, y = rng.uniform(back, front + 0.02), rng.uniform(top, top + 0.9 * depth)
        pen.lock(x, y, 0.055, look["stripes"], 0.02)
    if look["snout"] > 0.1:  # the hounds wear a collar
        x, y = head
        collar = rng.choice([(206, 52, 52), (52, 98, 196), (240, 190, 60), (70, 150, 90)])
        pen.limb(
            ((x - 0.10, y + 0.07), (x - 0.04, y + 0.14), (x + 0.04, y + 0.12)),
            (0.011, 0.011),
            collar,
            0,
        )


def draw_head(pen: Pen, look: dict, x: float, y: float, r: float) -> None:
    """Draw the head, its centre at (x, y) and r its radius."""
    rng, coat, light, ear, fur, snout = (
        pen.rng,
        look["coat"],
        look["light"],
        look["ear"],
        look["fur"],
        look["snout"],
    )
    face = look.get("face", coat)
    if look["ears"] == "prick":
        for side in (0.6, -0.55):
            for size, tone in ((1.12, shade(coat, 0.72)), (1.0, coat), (0.55, ear)):
                middle, half = x + side * r, 0.38 * size * r
                tip = (x + 1.15 * side * r, y - (0.75 + 0.75 * size) * r)
                pen.shape([(middle - half, y - 0.5 * r), tip, (middle + half, y - 0.5 * r)], tone)
    elif look["ears"] == "drop":
        path = (x + 0.7 * r, y - 0.6 * r), (x + 1.05 * r, y - 0.3 * r), (x + 0.95 * r, y + 0.3 * r)
        pen.limb(path, (0.2 * r, 0.26 * r), shade(ear, 0.85), 0)
    elif look["ears"] == "drape":
        pen.fringe(x + 0.6 * r, x + 0.95 * r, y - 0.5 * r, 1.6 * r, shade(ear, 0.85))
    pen.blob(x, y, r, 0.95 * r, face, 0.7 * fur, 0.85)
    if "patch" in look:
        pen.blob(x - 0.5 * r, y - 0.3 * r, 0.4 * r, 0.5 * r, look["patch"], 0.02)

    # Muzzle, then what lies over it; (nx, ny) is the nose
    sx, sy = x + 0.42 * r + snout / 2, y + 0.34 * r
    nx, ny = sx + 0.45 * snout + 0.2 * r, sy - 0.12 * r
    muzzle = look.get("mask") or (light if "blaze" in look else face)
    if rng.random() < 0.6:
        pen.dot(nx - 0.2 * r, ny + 0.50 * r, 0.17 * r, 0.27 * r, (214, 92, 104))
        pen.dot(nx - 0.2 * r, ny + 0.48 * r, 0.14 * r, 0.24 * r, (240, 128, 138))
    pen.blob(sx, sy, 0.42 * r + 0.55 * snout, 0.36 * r + 0.1 * snout, muzzle, fur / 5, 0.8)
    if "rust" in look:
        pen.blob(x - 0.05 * r, y + 0.42 * r, 0.34 * r, 0.3 * r, look["rust"], 0.01)
    if "mask" in look:
        pen.blob(x + 0.36 * r, y + 0.02 * r, 0.52 * r, 0.36 * r, look["mask"], 0.01)
    if "blaze" in look:
        corners = ((0.26, -0.9), (0.46, -0.9), (0.66, 0.2), (0.2, 0.2))
        pen.shape([(x + u * r, y + v * r) for u, v in corners], light)
    mouth = [
        value * CANVAS for value in (nx - 0.62 * r, ny - 0.10 * r, nx + 0.02 * r, ny + 0.36 * r)
    ]
    pen.draw.arc(mouth, 15, 165, (40, 28, 28), 4)
    if "beard" in look:
        pen.fringe(sx - 0.3 * r, nx - 0.1 * r, sy + 0.25 * r, 0.55 * r, light)
    pen.dot(nx, ny, 0.17 * r + 0.007, 0.13 * r + 0.006, (26, 22, 24))
    pen.dot(nx - 0.03 * r, ny - 0.05 * r, 0.06 * r, 0.03 * r, (140, 140, 148))
    for side, size in ((0.02, 1.0), (0.62, 0.85)):
        ex, ey, size = x + side * r, y - 0.12 * r, size * (0.13 * r + 0.002)
        pen.dot(ex, ey, 1.25 * size, 1.3 * size, shade(look.get("mask", face), 0.6))
        pen.dot(ex, ey, size, 1.1 * size, (40, 24, 18))
        pen.dot(ex + 0.3 * size, ey - 0.4 * size, 0.36 * size, 0.36 * size, (255, 255, 255))
        if "rust" in look:
            pen.dot(ex - 0.02 * r, ey - 0.28 * r, 0.11 * r, 0.07 * r, look["rust"])

    if look["ears"] == "drop":
        path = (
            (x - 0.55 * r, y - 0.65 * r),
            (x - 1.1 * r, y - 0.35 * r),
            (x - 0.85 * r, y + 0.5 * r),
        )
        pen.limb(path, (0.22 * r, 0.34 * r), ear, fur / 2, edge=0.75)
    elif look["ears"] == "drape":
        pen.fringe(x - 1.05 * r, x - 0.4 * r, y - 0.6 * r, 2.0 * r, ear, -0.01)
    elif look["ears"] == "fold":
        corners = ((-0.3, -0.9), (-1.0, -0.8), (-1.3, 0.05), (-0.5, -0.35))
        pen.shape([(x + u * r, y + v * r) for u, v in corners], ear)
    if "bow" in look:
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
        pen.dot(*knot, 0.1 * r, 0.1 * r, shade(bow, 0.75))
