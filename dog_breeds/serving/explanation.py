"""Where the model looked: which parts of a picture spoke for its breed. NumPy only."""

from typing import Any

import numpy as np


def explaining(interpreter: Any) -> list[int]:
    """Return the indices of the tensors that explain: the map of features, the kernel of a head
    without inner layer.

    Empty for a model file that lacks one of them.
    """
    indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    found = [indices[name] for name in ("map", "kernel") if name in indices]
    depths = [interpreter.get_tensor(index).shape[-1] for index in found]
    return found if len(depths) == 2 and depths[0] == depths[1] else []


def class_activation_map(interpreter: Any, tensors: list[int], breed: int) -> list[list[float]]:
    """Return how much each cell of the last picture spoke for a breed, as `evidence` does, in rows
    of numbers.
    """
    cells, kernel = map(interpreter.get_tensor, tensors)
    return evidence(cells[0], kernel[breed]).round(3).tolist()


def evidence(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return how much each cell of a map [h, w, 2048] spoke for a breed: [h, w], 0 (not) to 1 (the
    most).

    The head is linear and the features are the mean of the map over its cells, so each cell's share
    in the breed's logit is its features times the breed's weights [2048] (Zhou et al., "Learning
    deep features for discriminative localization", CVPR 2016). What speaks against the breed counts
    as 0.
    """
    # Not @, whose threads wait for busy CPUs
    shares = np.maximum(np.einsum("hwd,d->hw", cells, weights), 0)
    return shares / max(shares.max(), 1e-9)


def on_picture(
    cells: list[list[float]], box: tuple[float, float, float, float] | None, turned: int
) -> list[list[float]]:
    """Return the cells of a view at their places in the picture, 0 elsewhere.

    The view shows a box of the picture (left, top, right, bottom in shares of its sides), or all of
    it, turned by so many degrees clockwise.
    """
    cells = np.rot90(cells, turned // 90)
    number = len(cells)
    left, top, right, bottom = box or (0, 0, 1, 1)
    centres = (np.arange(number) + 0.5) / number
    rows, columns = (
        np.floor((centres - start) / (end - start) * number).astype(int)
        for start, end in ((top, bottom), (left, right))
    )
    whole = np.pad(cells, 1)  # a frame of zeros for what is outside
    return whole[
        np.ix_(np.clip(rows + 1, 0, number + 1), np.clip(columns + 1, 0, number + 1))
    ].tolist()
