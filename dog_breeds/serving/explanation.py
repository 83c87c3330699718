"""Compute which parts of an image spoke for its breed: class activation maps, with NumPy alone."""

from typing import Any

import numpy as np


def explanation_tensors(interpreter: Any) -> list[int]:
    """Return the indices of the two tensors that an explanation needs.

    They are the map of features and the kernel of the head. The result is empty if a model file
    lacks one of them, or if its head has an inner layer.
    """
    indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    found = [indices[name] for name in ("map", "kernel") if name in indices]
    # Behind an inner layer, the kernel has another depth than the map
    depths = [interpreter.get_tensor(index).shape[-1] for index in found]
    return found if len(depths) == 2 and depths[0] == depths[1] else []


def class_activation_map(interpreter: Any, tensors: list[int], breed: int) -> list[list[float]]:
    """Return `evidence` for the last image that the interpreter ran on, as rows of numbers.

    `breed` is the breed's index among the classes.
    """
    cells, kernel = map(interpreter.get_tensor, tensors)
    return evidence(cells[0], kernel[breed]).round(3).tolist()


def evidence(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return how much each cell of a map [h, w, 2048] spoke for a breed: [h, w], 0 to 1 (the most).

    The head is linear, and the features are the mean of the map over its cells. So a cell's share
    of the breed's logit is its features times the breed's weights [2048] (Zhou et al., "Learning
    deep features for discriminative localization", CVPR 2016). Cells that speak against the breed
    get 0.
    """
    # einsum rather than @, because the threads of @ wait for busy CPUs
    shares = np.maximum(np.einsum("hwd,d->hw", cells, weights), 0)
    return shares / max(shares.max(), 1e-9)


def place_in_image(
    cells: list[list[float]], box: tuple[float, float, float, float] | None, turned: int
) -> list[list[float]]:
    """Move the cells of a view to their places in the image, and return 0 for all other places.

    The view shows `box` (left, top, right, bottom as shares of the image's sides; None: all of it),
    turned clockwise by `turned` degrees.
    """
    cells = np.rot90(cells, turned // 90)
    number = len(cells)
    left, top, right, bottom = box or (0, 0, 1, 1)
    centres = (np.arange(number) + 0.5) / number
    rows, columns = (
        np.floor((centres - start) / (end - start) * number).astype(int)
        for start, end in ((top, bottom), (left, right))
    )
    whole = np.pad(cells, 1)  # a frame of zeros for places outside the box
    return whole[
        np.ix_(np.clip(rows + 1, 0, number + 1), np.clip(columns + 1, 0, number + 1))
    ].tolist()
