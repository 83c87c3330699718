"""Find copies among photos: identical files, and photos that were encoded again, scaled, brightened
or marked.

A difference hash (dHash) selects candidate pairs. A pair is a copy if the details of small grey
thumbnails agree, which means the differences between neighbouring pixels. Comparing the brightness
itself would take any two flash photos for copies. Two shots of one scene mostly do not count as
copies. Mirrored, turned and cropped copies are not found.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.console import with_progress
from dog_breeds.data.dataset import Task
from dog_breeds.serving.pixels import scale_down
from dog_breeds.workers import map_in_threads

# Size of a thumbnail in pixels. The hash has 8 x 9 cells of 4 x 4 pixels each.
ROWS, COLUMNS = 32, 36
# Candidates differ in at most this many of the 64 bits. Two in 100,000 pairs of the 20,580 photos
# are candidates.
MAX_DISTANCE = 10
# Minimum agreement of a copy, chosen by eye. All pairs of the 20,580 photos above it are copies or
# shots of the same second. The highest coincidence, two photos with frames, is at 0.49.
MIN_AGREEMENT = 0.55
# A thumbnail with smaller steps (grey levels, root mean square) shows nothing to compare
MIN_DETAIL = 1.0
HASH_BATCH = 2**20  # pairs whose hashes are compared at once: at most 60 MB
CANDIDATE_BATCH = 2**10  # candidates whose details are compared at once: 20 MB


def find_copies(paths: Sequence[Path]) -> np.ndarray:
    """Return for each photo the index of the first photo that it is a copy of, int [n].

    The index is the photo's own if it is no copy of an earlier photo. An unreadable photo, or a
    photo without detail, is never a copy.
    """
    return group_copies(_thumbnails(paths))


def without_copies(task: Task, images: Sequence[str]) -> list[str]:
    """Return the images that are no copies of the task's train and validation images."""
    known = [*task.images("train"), *task.images("validation")]
    first = find_copies([task.photo(image) for image in (*known, *images)])
    return [
        image
        for image, original in zip(images, first[len(known) :], strict=True)
        if original >= len(known)
    ]


def _thumbnails(paths: Sequence[Path]) -> np.ndarray:
    """Return a grey thumbnail of each photo, uint8 [n, ROWS, COLUMNS]; black if unreadable."""
    rows = with_progress(map_in_threads(_thumbnail, paths), "thumbnails", len(paths), "photos")
    return np.array(list(rows), np.uint8).reshape(-1, ROWS, COLUMNS)


def _thumbnail(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            scale_down(image, 2 * ROWS, "L")
            return np.asarray(image.convert("L").resize((COLUMNS, ROWS), Image.Resampling.BOX))
    except Exception:  # Pillow raises nearly anything for a damaged file
        return np.zeros((ROWS, COLUMNS), np.uint8)


def group_copies(thumbnails: np.ndarray) -> np.ndarray:
    """Return what `find_copies` returns, for thumbnails, uint8 [n, ROWS, COLUMNS].

    A copy of a copy is a copy of the first photo.
    """
    first = np.arange(len(thumbnails))
    detailed = np.flatnonzero(_has_detail(thumbnails))
    for pairs in near_pairs(_hashes(thumbnails[detailed]), MAX_DISTANCE):
        for start in range(0, len(pairs), CANDIDATE_BATCH):
            i, j = detailed[pairs[start : start + CANDIDATE_BATCH]].T
            # Skip pairs that are already in one group. Thousands of equal photos have millions of
            # pairs, and nearly all are skipped here.
            new = first[i] != first[j]
            if not new.any():
                continue
            i, j = i[new], j[new]
            same = agreement(thumbnails[i], thumbnails[j]) >= MIN_AGREEMENT
            for one, other in zip(i[same], j[same], strict=True):
                low, high = sorted((first[one], first[other]))
                first[first == high] = low  # merge the two groups
    return first


def _has_detail(thumbnails: np.ndarray) -> np.ndarray:
    """Return which thumbnails show enough detail to compare, bool [n]."""
    # One thumbnail at a time: the steps of all need twelve times the memory
    return np.array(
        [np.square(_steps(thumbnail[None])).mean() >= MIN_DETAIL**2 for thumbnail in thumbnails],
        bool,
    )


def _hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the difference hash of each thumbnail, uint64 [n].

    Each bit says whether a cell is lighter than its left neighbour.
    """
    # Sum the pixels of each cell: [n, 8, 9]
    cells = thumbnails.reshape(-1, 8, ROWS // 8, 9, COLUMNS // 9).sum((2, 4), dtype=np.int32)
    return (
        np.packbits(cells[:, :, 1:] > cells[:, :, :-1], axis=None)
        .reshape(-1, 8)
        .view(np.uint64)
        .ravel()
    )


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Yield all pairs (i, j) with i < j whose hashes differ in at most `distance` bits.

    Yields arrays int [m, 2], in the order of i. A matrix product finds the pairs, which is faster
    than counting bits: for bits as -1 and 1, the product of two hashes is 64 - 2 * distance.
    """
    # -1 and 1, float32 [n, 64]
    signs = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32) * 2 - 1
    rows = max(HASH_BATCH // max(len(signs), 1), 1)
    for start in range(0, len(signs), rows):
        i, j = np.nonzero(signs[start : start + rows] @ signs[start:].T >= 64 - 2 * distance)
        yield np.stack([i, j], axis=1)[j > i] + start


def agreement(thumbnails: np.ndarray, other_thumbnails: np.ndarray) -> np.ndarray:
    """Return the agreement of each thumbnail with the other in the same row, float [n] in -1..1.

    The agreement is the cosine between the steps of both thumbnails. It does not depend on
    brightness and contrast.
    """
    steps, other_steps = _steps(thumbnails), _steps(other_thumbnails)
    lengths = np.linalg.norm(steps, axis=1) * np.linalg.norm(other_steps, axis=1)
    return np.einsum("ij,ij->i", steps, other_steps) / np.maximum(lengths, 1e-6)  # no division by 0


def _steps(thumbnails: np.ndarray) -> np.ndarray:
    """Return the differences between neighbouring pixels, by column and row, float32 [n, 2236]."""
    thumbnails = thumbnails.astype(np.float32)
    steps = (np.diff(thumbnails, axis=axis).reshape(len(thumbnails), -1) for axis in (1, 2))
    return np.concatenate(list(steps), axis=1)
