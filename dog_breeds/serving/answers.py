"""Which answer about a picture to give: the model knows upright photos without borders, and people
send others.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

BORDER_TOLERANCE = 16  # of 255: how far a border's pixels may be from its most frequent colour
# Of a row or column of pixels in that colour, from which it is border: text may stand in it
BORDER_SHARE = 0.75
SMALLEST_INSIDE, LARGEST_INSIDE = (
    1 / 6,
    0.8,
)  # of a side, of the area: else there is no border, or nothing but border

Frame = tuple[float, float, float, float]  # left, top, right, bottom in shares of both sides, 0..1
Run = Callable[
    [np.ndarray], tuple[np.ndarray, float, float]
]  # pixels -> probabilities [N], similarity, upright


class Look(NamedTuple):
    """What the model says about a view of a picture."""

    pixels: np.ndarray  # float32 RGB [size, size, 3], 0..255: the view
    probabilities: np.ndarray  # float32 [N]
    similarity: float  # to the nearest breed
    upright: float  # below 0 where the view seems to be turned
    known: bool  # the picture seems to show that breed
    box: Frame | None = None  # of what the view shows, where borders were cut off
    turned: int = 0  # degrees clockwise by which it was then turned


def end_of(context: Any) -> float:
    """Return the time of time.monotonic() at which Lambda ends a request; infinity where there is
    no Lambda.
    """
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return time.monotonic() + remaining() / 1000 if remaining else math.inf


def half_way(end: float, pictures: int = 1) -> float:
    """Return the time until which the next of so many pictures may take: half of its share of what
    is left.
    """
    now = time.monotonic()
    return now + (end - now) / pictures / 2


def best_look(
    run: Run, pixels: np.ndarray, threshold: float, until: float = math.inf
) -> tuple[Look, int]:
    """Return the most similar of the looks at a picture if it is known, else the plain one; and how
    many there were.

    A picture that is not known is also looked at without its borders, if it has any; one that seems
    to be turned, known or not, at the other three quarter turns. That makes one inference for
    nearly all pictures, five at most. Starts none, after the first, that would hardly end before
    `until`, a time of time.monotonic().
    """
    looks: list[Look] = []
    seconds = 0.0  # that one takes

    def take(view: np.ndarray, box: Frame | None = None, turned: int = 0) -> None:
        if not looks or time.monotonic() + 2 * seconds < until:
            probabilities, similarity, upright = run(view)
            looks.append(
                Look(view, probabilities, similarity, upright, similarity >= threshold, box, turned)
            )

    start = time.monotonic()
    take(pixels)
    seconds = time.monotonic() - start
    box = None if looks[0].known else inside_borders(pixels)
    if box:
        take(cut_out(pixels, box), box)
    last = looks[-1]
    if last.upright < 0:
        for turned in (90, 180, 270):
            take(
                np.rot90(last.pixels, k=-(turned // 90)), last.box, turned
            )  # rot90 turns anticlockwise
    best = max(looks, key=lambda look: look.similarity)
    return best if best.known else looks[0], len(looks)


def inside_borders(pixels: np.ndarray) -> Frame | None:
    """Return the box of what stands within plain borders, as on screenshots and scans; None without
    such borders.
    """
    size = len(pixels)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    coarse = edge.astype(int) // BORDER_TOLERANCE @ (256, 16, 1)
    colour = np.median(edge[coarse == np.bincount(coarse).argmax()], axis=0)
    near = [
        abs(pixels[..., i] - colour[i]) <= BORDER_TOLERANCE for i in range(3)
    ]  # apart: six times as fast
    border = near[0] & near[1] & near[2]
    top, bottom = longest_run(border.mean(axis=1) < BORDER_SHARE)
    left, right = longest_run(border[top:bottom].mean(axis=0) < BORDER_SHARE) if bottom else (0, 0)
    height, width = bottom - top, right - left
    if min(height, width) < SMALLEST_INSIDE * size or height * width > LARGEST_INSIDE * size**2:
        return None
    return left / size, top / size, right / size, bottom / size


def cut_out(pixels: np.ndarray, box: Frame) -> np.ndarray:
    """Return what is in a box, scaled to the whole size."""
    left, top, right, bottom = (round(share * len(pixels)) for share in box)
    inside = Image.fromarray(pixels[top:bottom, left:right].astype(np.uint8))
    return np.asarray(inside.resize(pixels.shape[:2], Image.Resampling.BILINEAR), dtype=np.float32)


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Return start and end of the longest run of true values; (0, 0) if there are none."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]))).tolist()
    return max(
        zip(changes[::2], changes[1::2], strict=True),
        key=lambda run: run[1] - run[0],
        default=(0, 0),
    )
