"""Choose the answer about an image: other attempts for images with borders, and for turned ones.

The model has learned from upright photos without borders, but people also send screenshots and
photos that lie on their side.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

BORDER_TOLERANCE = 16  # of 255: largest distance of a border's pixels from the border's colour
# A row or column belongs to the border if this share of it has the border's colour. The rest may
# be text.
BORDER_SHARE = 0.75
# The inside must have at least this share of each side, and at most this share of the area.
# Otherwise the image has no border, or is nothing but border.
SMALLEST_INSIDE, LARGEST_INSIDE = 1 / 6, 0.8

Frame = tuple[float, float, float, float]  # left, top, right, bottom as shares of the sides, 0..1
# From pixels to the probabilities, the score and the upright score of a Prediction
Run = Callable[[np.ndarray], tuple[np.ndarray, float, float]]


class Prediction(NamedTuple):
    """The model's output for an image, or for one view of it."""

    pixels: np.ndarray  # float32 RGB [size, size, 3], 0..255: the view
    probabilities: np.ndarray  # float32 [N]
    score: float  # of the rule for unknown breeds; low if the view shows no known breed
    upright: float  # below 0 if the view seems turned
    known: bool  # whether the view seems to show a known breed
    box: Frame | None = None  # the part of the image that the view shows; None: all of it
    turned: int = 0  # degrees clockwise by which this part was turned


def end_of(context: Any) -> float:
    """Return the time of time.monotonic() at which Lambda ends a request.

    Outside Lambda there is no such time, and the result is infinity.
    """
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return time.monotonic() + remaining() / 1000 if remaining else math.inf


def half_way(end: float, images: int = 1) -> float:
    """Return the time until which the next image may take.

    The `images` that remain share the time until `end` equally. The result is half of the next
    image's share. The other half is for its inference and its answer.
    """
    now = time.monotonic()
    return now + (end - now) / images / 2


def best_prediction(
    run: Run, pixels: np.ndarray, threshold: float, until: float = math.inf
) -> tuple[Prediction, int]:
    """Return the best prediction about an image, and the number of attempts that it took.

    1. The first attempt shows the whole image to the model.
    2. If no breed is recognised and the image has borders, the next attempt shows the image without
       them.
    3. If the image seems turned, three more attempts show the other quarter turns. Each of them
       counts only if it seems upright itself. Images of something else, such as cats, seem turned
       in every direction.

    The attempt with the highest score wins if it is known. Otherwise the first attempt's prediction
    is returned. Nearly all photos of dogs take one inference, and no image takes more than five.
    After the first attempt, no attempt starts that would hardly end before `until`, a time of
    time.monotonic().
    """
    attempts: list[Prediction] = []
    seconds = 0.0  # duration of the first attempt

    def attempt(view: np.ndarray, box: Frame | None = None, turned: int = 0) -> None:
        # An attempt takes about as long as the first one. Leave as much time again for the answer.
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
            # np.rot90 turns anticlockwise, hence the minus
            clockwise = np.rot90(last.pixels, k=-(turned // 90))
            attempt(clockwise, last.box, turned)
    # The first attempts always count; a turned view counts only if it seems upright
    counting = [view for view in attempts if not view.turned or view.upright >= 0]
    best = max(counting, key=lambda prediction: prediction.score)
    return best if best.known else attempts[0], len(attempts)


def likely_classes(
    probabilities: np.ndarray, classes: Sequence[str], threshold: float
) -> list[str]:
    """Return the names of the classes with at least this probability, likeliest first.

    The result always includes the likeliest class. The threshold comes from split conformal
    prediction (learning/rules.py).
    """
    ranking = np.argsort(-probabilities, kind="stable").tolist()
    return [classes[i] for i in ranking if i == ranking[0] or probabilities[i] >= threshold]


def inside_borders(pixels: np.ndarray) -> Frame | None:
    """Return the box inside plain borders, such as those of screenshots and scans.

    `pixels` are float32 RGB [size, size, 3], 0..255. The result is None without such borders.
    """
    size = len(pixels)
    # The border's colour is the median of the edge pixels in the most frequent coarse colour
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    coarse = edge.astype(int) // BORDER_TOLERANCE @ (256, 16, 1)
    colour = np.median(edge[coarse == np.bincount(coarse).argmax()], axis=0)
    # Channel by channel, which is six times as fast as all three at once
    near = [abs(pixels[..., i] - colour[i]) <= BORDER_TOLERANCE for i in range(3)]
    border = near[0] & near[1] & near[2]
    top, bottom = longest_run(border.mean(axis=1) < BORDER_SHARE)
    left, right = longest_run(border[top:bottom].mean(axis=0) < BORDER_SHARE) if bottom else (0, 0)
    height, width = bottom - top, right - left
    if min(height, width) < SMALLEST_INSIDE * size or height * width > LARGEST_INSIDE * size**2:
        return None
    return left / size, top / size, right / size, bottom / size


def cut_out(pixels: np.ndarray, box: Frame) -> np.ndarray:
    """Return the pixels inside a box, scaled to the whole size."""
    left, top, right, bottom = (round(share * len(pixels)) for share in box)
    inside = Image.fromarray(pixels[top:bottom, left:right].astype(np.uint8))
    return np.asarray(inside.resize(pixels.shape[:2], Image.Resampling.BILINEAR), dtype=np.float32)


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Return start and end of the longest run of true values, or (0, 0) if there is none."""
    # A run starts and ends where the value changes; the zeros close runs at both ends
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]))).tolist()
    return max(
        zip(changes[::2], changes[1::2], strict=True),
        key=lambda run: run[1] - run[0],
        default=(0, 0),
    )
