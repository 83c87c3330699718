"""Copies of photos are found after encoding, scaling and brightening, and only copies."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance
from planted import encode, smooth_image

from dog_breeds.data import duplicates
from dog_breeds.data.dataset import Task, images_dir


def scene(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """Return an image with a background and objects, like a photo."""
    rng = np.random.default_rng(seed)
    image = smooth_image(width, height, seed)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = rng.integers(0, width), rng.integers(0, height), rng.integers(10, 80)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(map(int, rng.integers(0, 256, 3))))
    return image


def marked(image: Image.Image) -> Image.Image:
    copy = image.copy()
    ImageDraw.Draw(copy).text((10, 350), "(c) somebody, 2008", fill="white")
    return copy


COPIES = {
    "same.jpg": lambda image: encode(image),
    "again.jpg": lambda image: encode(image, quality=25),
    "other.png": lambda image: encode(image, format="PNG"),
    "small.jpg": lambda image: encode(image.resize((160, 118), Image.Resampling.LANCZOS)),
    "large.webp": lambda image: encode(image.resize((1010, 760)), format="WEBP"),
    "grey.jpg": lambda image: encode(image.convert("L")),
    "dark.jpg": lambda image: encode(ImageEnhance.Brightness(image).enhance(0.4)),
    "trimmed.jpg": lambda image: encode(image.crop((4, 3, 496, 372))),
    "marked.jpg": lambda image: encode(marked(image)),
}


def test_copies_are_found_and_different_images_are_not(tmp_path):
    paths = []
    for seed in range(40):
        paths.append(tmp_path / f"{seed:02}.jpg")
        paths[-1].write_bytes(encode(scene(seed)))
    for name, copy in COPIES.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(copy(scene(7)))
    first = duplicates.find_copies(paths)
    assert first[:40].tolist() == list(range(40))
    assert dict(zip(COPIES, first[40:].tolist(), strict=True)) == dict.fromkeys(COPIES, 7)


def test_unreadable_and_plain_images_are_no_copies(tmp_path):
    contents = [
        b"",
        b"",
        b"no image",
        encode(scene(1)),
        *(encode(Image.new("RGB", (90, 90), c)) for c in ("red", "red")),
    ]
    # The last file does not exist
    paths = [tmp_path / f"{number}.jpg" for number in range(len(contents) + 1)]
    for path, content in zip(paths, contents, strict=False):
        path.write_bytes(content)
    assert duplicates.find_copies(paths).tolist() == list(range(len(paths)))
    assert duplicates.find_copies([]).tolist() == []


def test_light_alone_makes_no_copy():
    """Flash photos have the same bright centre, with different objects in it."""
    rows, columns = np.mgrid[-1 : 1 : duplicates.ROWS * 1j, -1 : 1 : duplicates.COLUMNS * 1j]
    light = 200 * np.exp(-2 * (rows**2 + columns**2))
    objects = np.random.default_rng(0).normal(0, 12, (2, *light.shape))
    thumbnails = np.clip(light + objects, 0, 255).astype(np.uint8)
    assert np.corrcoef(thumbnails.reshape(2, -1))[0, 1] > 0.9
    assert duplicates.agreement(thumbnails[:1], thumbnails[1:])[0] < duplicates.MIN_AGREEMENT


def test_near_pairs_finds_all_pairs_within_the_distance(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 50, np.uint64)
    flips = np.uint64(1) << np.arange(20, dtype=np.uint64)
    hashes = np.concatenate([hashes, hashes[:20] ^ flips, hashes[:3] ^ np.uint64(7)])
    bits = np.array([[int(a ^ b).bit_count() for b in hashes] for a in hashes])
    expected = {(i, j) for i, j in np.argwhere(bits <= 2).tolist() if i < j}
    for batch in (1, 500, 2**20):
        monkeypatch.setattr(duplicates, "HASH_BATCH", batch)
        found = np.concatenate(list(duplicates.near_pairs(hashes, 2)))
        assert set(map(tuple, found.tolist())) == expected
        assert len(found) == len(expected) >= 20


@pytest.mark.parametrize("content", ["different", "equal", "plain"])
def test_memory_is_bounded(content):
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (4000, duplicates.ROWS, duplicates.COLUMNS), np.uint8)
    if content == "equal":
        thumbnails[:] = thumbnails[0]
    if content == "plain":
        thumbnails[:] = np.arange(4000)[:, None, None] % 256
    tracemalloc.start()
    first = duplicates.group_copies(thumbnails)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first == (0 if content == "equal" else np.arange(4000))).all()
    assert peak < 100e6  # the indices of all pairs would take 128 MB


def test_copies_of_training_images_are_left_out_of_the_test_images(tmp_path):
    split, drawn = {}, {"1": 1, "2": 2, "3": 3, "4": 4, "5": 1, "6": 3, "7": 7, "8": 7}
    subsets = {"1": "train", "2": "train", "3": "validation"}
    for number, seed in drawn.items():
        folder = "n02110958-pug" if int(number) % 2 else "n02108089-boxer"
        split[f"{folder}/{number}.jpg"] = subsets.get(number, "test")
        path = images_dir(tmp_path) / folder / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene(seed)))
    task = Task(tmp_path, ["boxer", "pug"], split)
    kept = duplicates.without_copies(task, task.images("test"))
    # 5 is a copy of 1, which has the same breed, and 6 is a copy of 3, which has the other breed.
    # 7 and 8 are copies only of each other.
    assert kept == ["n02108089-boxer/4.jpg", "n02108089-boxer/8.jpg", "n02110958-pug/7.jpg"]
    assert duplicates.without_copies(task, []) == []
