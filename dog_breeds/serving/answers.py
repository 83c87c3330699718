"""Choose the answer about a picture: the model knows upright photos without borders, and people
send others.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

BORDER_TOLERANCE = 16  # of 255: how far a border's pixels may be from its most frequent colour
# Of a row or column of pixels in that colour, from which it is border: text may stand in it
BORDER_SHARE = 0.75
# Of a side, of the area: else there is no border, or nothing but border
SMALLEST_INSIDE, LARGEST_INSIDE = 1 / 6, 0.8

Frame = tuple[float, float, float, float]  # left, top, right, bottom in shares of both sides, 0..1
Run = Callable[[np.ndarray], tuple[np.ndarray, float, float]]  # pixels -> as in Prediction


class Prediction(NamedTuple):
    """What the model says about a picture, or about one view of it."""

    pixels: np.ndarray  # float32 RGB [size, size, 3], 0..255: the view
    probabilities: np.ndarray  # float32 [N]
    score: float  # of the rule for unknown breeds: low for a picture of no known breed
    upright: float  # below 0 where the view seems to be turned
    known: bool  # the picture seems to show a known breed
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


def best_prediction(
    run: Run, pixels: np.ndarray, threshold: float, until: float = math.inf
) -> tuple[Prediction, int]:
    """Return the prediction with the highest score of all attempts if that one is known, else the
    first; and the number of attempts.

    The first attempt shows the model the picture as it is. If no breed is recognised, the next one
    shows the picture without its borders, if it has any. If the picture seems to be turned, known
    or not, three attempts show the other quarter turns. One of these counts only if it seems to be
    upright: most pictures of something else, such as cats, seem to be turned whichever way they
    are shown. Nearly all pictures of dogs take one inference; none takes more than five. After the
    first attempt, none starts that would hardly end before `until`, a time of time.monotonic().
    """
    attempts: list[Prediction] = []
    seconds = 0.0  # that the first attempt takes

    def attempt(view: np.ndarray, box: Frame | None = None, turned: int = 0) -> None:
        if not attempts or time.monotonic() + 2 * seconds < until:
            probabilities, score, upright = run(view)
            known = score >= threshold
            attempts.append(Prediction(view, probabilities, score, upright, known, box, turned))

    start = time.monotonic()
    attempt(pixels)
    seconds = time.monotonic() - start
    box = None if attempts[0].known else inside_borders(pixels)
    if box:
        attempt(cut_out(pixels, box), box)
    last = attempts[-1]
    if last.upright < 0:
        for turned in (90, 180, 270):
            clockwise = np.rot90(last.pixels, k=-(turned // 90))  # rot90 itself turns anticlockwise
            attempt(clockwise, last.box, turned)
    counting = [one for one in attempts if not one.turned or one.upright >= 0]
    best = max(counting, key=lambda prediction: prediction.score)
    return best if best.known else attempts[0], len(attempts)


def likely_classes(
    probabilities: np.ndarray, classes: Sequence[str], threshold: float
) -> list[str]:
    """Return the names of the classes with at least this probability, likeliest first; always the
    first one.

    The threshold comes from split conformal prediction (heads.fit_candidates).
    """
    ranking = np.argsort(-probabilities, kind="stable").tolist()
    return [classes[i] for i in ranking if i == ranking[0] or probabilities[i] >= threshold]


def inside_borders(pixels: np.ndarray) -> Frame | None:
    """Return the box of what stands within plain borders, as on screenshots and scans; None without
    such borders.
    """
    size = len(pixels)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    coarse = edge.astype(int) // BORDER_TOLERANCE @ (256, 16, 1)
    colour = np.median(edge[coarse == np.bincount(coarse).argmax()], axis=0)
    # Apart: six times as fast
    near = [abs(pixels[..., i] - colour[i]) <= BORDER_TOLERANCE for i in range(3)]
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
