"""Pictures that are there more than once: the same bytes, encoded again, scaled, brightened or with
a mark on them.

The difference hash (dHash) names candidates among all pairs; what counts is whether their details,
the steps from cell to cell of small grey thumbnails, agree. Comparing brightness itself takes any
two flash photos for one. Further shots of one scene mostly don't count, mirrored, turned and cut
pictures don't at all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.console import with_progress
from dog_breeds.data.dataset import Task
from dog_breeds.serving.pixels import scale_down
from dog_breeds.workers import map_in_threads

ROWS, COLUMNS = 32, 36  # of a thumbnail: 4 x 4 cells for each of the 8 x 9 of the hash
DISTANCE = 10  # bits of 64: of the pairs among the 20,580 photos two in 100,000 are as near
# Chosen by looking at pairs of those photos: above it all are copies or shots of the same second;
# the first coincidence, two photos with frames, is at 0.49.
AGREEMENT = 0.55
# Grey levels from cell to cell, root mean square: below it there is nothing to compare
LEAST_DETAIL = 1.0
PAIRS = 2**20  # that are compared at once: at most 60 MB
CHECKED = 2**10  # of which are checked at once: 20 MB


def find_copies(paths: Sequence[Path]) -> np.ndarray:
    """Return for each picture the index of the first one that it is a copy of, int [n]: its own if
    there is none.

    A picture that cannot be read or shows no detail is nobody's copy.
    """
    return group_copies(thumbnails(paths))


def without_copies(task: Task, images: Sequence[str]) -> list[str]:
    """Return those of the images whose photos are no copies of the task's train and validation
    photos.
    """
    learned = [*task.images("train"), *task.images("validation")]
    first = find_copies([task.photo(image) for image in (*learned, *images)])
    return [
        image
        for image, copied in zip(images, first[len(learned) :], strict=True)
        if copied >= len(learned)
    ]


def thumbnails(paths: Sequence[Path]) -> np.ndarray:
    """Return small grey pictures, uint8 [n, 32, 36]; of files that cannot be read, black ones."""
    pictures = with_progress(map_in_threads(_thumbnail, paths), "thumbnails", len(paths), "photos")
    return np.array(list(pictures), np.uint8).reshape(-1, ROWS, COLUMNS)


def _thumbnail(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            scale_down(image, 2 * ROWS, "L")
            return np.asarray(image.convert("L").resize((COLUMNS, ROWS), Image.Resampling.BOX))
    except Exception:  # Pillow raises nearly anything for a damaged file
        return np.zeros((ROWS, COLUMNS), np.uint8)


def group_copies(pictures: np.ndarray) -> np.ndarray:
    """Return what `find_copies` does, for thumbnails; copies of copies are copies of the first."""
    first = np.arange(len(pictures))
    detailed = np.flatnonzero(has_detail(pictures))
    for pairs in near_pairs(hashes(pictures[detailed]), DISTANCE):
        for start in range(0, len(pairs), CHECKED):
            i, j = detailed[pairs[start : start + CHECKED]].T
            new = first[i] != first[j]  # of very many equal pictures nearly all pairs end here
            if not new.any():
                continue
            i, j = i[new], j[new]
            same = agreement(pictures[i], pictures[j]) >= AGREEMENT
            for one, other in zip(i[same], j[same], strict=True):
                low, high = sorted((first[one], first[other]))
                first[first == high] = low
    return first


def has_detail(pictures: np.ndarray) -> np.ndarray:
    """Return which thumbnails show anything that could be compared, bool [n]."""
    return np.array(
        [np.square(_steps(picture[None])).mean() >= LEAST_DETAIL**2 for picture in pictures], bool
    )


def hashes(pictures: np.ndarray) -> np.ndarray:
    """Return the difference hash of thumbnails, uint64 [n]: a bit says whether a cell is lighter
    than its left one.
    """
    # [n, 8, 9]
    cells = pictures.reshape(-1, 8, ROWS // 8, 9, COLUMNS // 9).sum((2, 4), dtype=np.int32)
    return (
        np.packbits(cells[:, :, 1:] > cells[:, :, :-1], axis=None)
        .reshape(-1, 8)
        .view(np.uint64)
        .ravel()
    )


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Yield the pairs (i < j) of which at most `distance` bits differ, int [m, 2] each, in the
    order of i.

    Bits as -1 and 1 make it a matrix product, in blocks, which is faster than counting bits.
    """
    # [n, 64]
    signs = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32) * 2 - 1
    rows = max(PAIRS // max(len(signs), 1), 1)
    for start in range(0, len(signs), rows):
        i, j = np.nonzero(signs[start : start + rows] @ signs[start:].T >= 64 - 2 * distance)
        yield np.stack([i, j], axis=1)[j > i] + start


def agreement(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine between the steps of two thumbnails, float [n] in -1..1: blind to
    brightness and contrast.
    """
    one, other = _steps(pictures), _steps(others)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.einsum("ij,ij->i", one, other) / np.maximum(lengths, 1e-6)


def _steps(pictures: np.ndarray) -> np.ndarray:
    """Return the differences between cells below and beside each other, float32 [n, 2236]."""
    pictures = pictures.astype(np.float32)
    steps = (np.diff(pictures, axis=axis).reshape(len(pictures), -1) for axis in (1, 2))
    return np.concatenate(list(steps), axis=1)
