"""Which answer about a picture to give: the model knows upright photos, and people send what lies on its side."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TURN_MARGIN = 0.03  # of similarity beyond the threshold, that a turned view must have to be believed

Run = Callable[[np.ndarray], tuple[np.ndarray, float]]  # pixels [size, size, 3] -> probabilities [N], similarity


class Look(NamedTuple):
    """What the model says about a view of a picture."""

    probabilities: np.ndarray  # float32 [N]
    similarity: float  # to the nearest breed
    turned: int = 0  # degrees clockwise by which the picture was turned


def best_look(run: Run, pixels: np.ndarray, threshold: float, until: float = math.inf) -> Look:
    """Return the plain look at a picture, or, where it is not known, the most similar quarter turn that is.

    Takes one inference for a known picture and four for another. Starts none, after the first, that would hardly end
    before `until`, a time of time.monotonic(): the plain look counts then.
    """
    start = time.monotonic()
    plain = Look(*run(pixels))
    seconds = time.monotonic() - start
    if plain.similarity >= threshold:
        return plain
    looks = []
    for turned in (90, 180, 270):
        if time.monotonic() + 2 * seconds > until:
            return plain
        looks.append(Look(*run(np.rot90(pixels, -turned // 90)), turned))
    best = max(looks, key=lambda look: look.similarity)
    return best if best.similarity >= threshold + TURN_MARGIN else plain
