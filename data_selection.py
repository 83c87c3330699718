"""Cut the dogs out of the Stanford Dogs photos.

Reads     data/raw (made by make_dataset.py): photos, and for each photo an XML file with a box
          around each dog.
Writes    data/processed/<breed>/<id>.jpg: the dog in its box, 299 x 299 RGB. Crops of another
          SIZE (dog_breeds/recipe.py) have their own folder, such as data/processed_150.
          data/processed/skipped.csv lists the failures.
Example

    python data_selection.py                   # all 120 breeds: 20 seconds on 2 cores
    python data_selection.py --breeds top10    # the ten breeds with most photos
    python data_selection.py --breeds pug "Great Pyrenees" --objects all    # every box of a photo

Time      20 seconds on 2 cores for all 120 breeds. A second run takes less than 1 second.
Expect    The numbers of crops, new and old. Photos and XML files are never changed. A crop newer
          than its photo and XML file is kept, so the same command continues a stopped run.
"""

import csv
import io
import os
import warnings
from pathlib import Path

from PIL import ExifTags, Image

from dog_breeds import recipe
from dog_breeds.console import (
    atomic_path,
    one_line_errors,
    progress,
    remove_temporary_files,
    script_parser,
)
from dog_breeds.data.dataset import (
    DATA_DIR,
    annotation_dir,
    breed_folders,
    choose_breeds,
    clip_box,
    images_dir,
    processed_dir,
    read_annotation,
    stems,
)
from dog_breeds.serving.pixels import opaque, resize, turn_upright
from dog_breeds.workers import map_in_processes

# The first setting with a noticeable error (over 2.3 CIELAB units) in less than 1 % of the pixels
# of real crops: 0.4 %, at 47 dB and 35 kB. With subsampling the share is 2.4 %, and at
# quality 90 it is 1.8 %. Measured by jpeg_* in benchmarks/data.py.
JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
CHUNK_SIZE = 32  # photos in a task of a worker, about 0.1 s of work
SHOWN = 10  # failures that the terminal lists
Failure = tuple[str, str]  # file relative to data/raw, what is wrong with it


# --- Crops ----------------------------------------------------------------------------------------


def crop_dogs(
    photo_path: Path, xml_path: Path, objects: str = "first", size: int | None = None
) -> list[Image.Image | None]:
    """Cut the dog in the first box, or in each box (objects="all"), out of a photo.

    Each crop is upright, RGB and `size` x `size` pixels (default: recipe.SIZE). A box that is
    empty, inverted, unreadable or outside the photo gives None. Raises ValueError if the XML is
    unreadable or contradicts the photo's size, and OSError if the photo cannot be decoded in full.
    """
    dogs = _cut(photo_path, xml_path, objects)
    # Resize after the photo's memory is free: a third faster
    return [dog and resize(dog, size or recipe.SIZE) for dog in dogs]


def _cut(photo_path: Path, xml_path: Path, objects: str) -> list[Image.Image | None]:
    """Return the crops of crop_dogs before they are resized."""
    annotation = read_annotation(xml_path)
    size = annotation["width"], annotation["height"]
    with Image.open(photo_path) as photo:
        # The size in the XML shows which image the boxes refer to: the stored one, or the one
        # turned upright if only that fits. If both fit (square, mirrored or upside down), they
        # refer to the stored image, because the annotators' tools ignored EXIF.
        as_stored = size in (photo.size, (0, 0))  # 0 x 0: the XML states no size
        if not as_stored:
            if size != photo.size[::-1] or photo.getexif().get(ExifTags.Base.Orientation) not in (
                5,
                6,
                7,
                8,
            ):
                stated = f"{xml_path} says {size[0]} x {size[1]} pixels"
                raise ValueError(f"{stated}, the photo has {photo.width} x {photo.height}")
            photo.load()
            turn_upright(photo)
        boxes = [clip_box(box, *photo.size) for box in annotation["boxes"]]
        dogs = [box and photo.crop(box) for box in (boxes if objects == "all" else boxes[:1])]
        if as_stored:
            for dog in filter(None, dogs):
                turn_upright(dog)  # same result as turning the photo and the box first
        return [dog and opaque(dog) for dog in dogs]


# --- Files ----------------------------------------------------------------------------------------


def crop_breeds(
    data_dir: Path, breeds: list[str], objects: str = "first", size: int | None = None
) -> dict:
    """Make the missing crops of these breeds on all cores, and write skipped.csv beside them.

    Crops have `size` pixels a side (default: recipe.SIZE). Returns {"done": photos cropped now,
    "skipped_existing": photos cropped before, "failed": [Failure, ...], "folder": of the crops}.
    Every run tries failed photos again and reports them again.
    """
    size = size or recipe.SIZE
    folders, crops = breed_folders(data_dir), processed_dir(data_dir, size)
    chunks, existing, failed = [], 0, []
    for breed in breeds:
        photos, annotations = (
            images_dir(data_dir) / folders[breed],
            annotation_dir(data_dir) / folders[breed],
        )
        target = crops / breed
        missing, present, unpaired = _find_missing_crops(photos, annotations, target, objects)
        existing += present
        failed += unpaired
        for start in range(0, len(missing), CHUNK_SIZE):
            ids = missing[start : start + CHUNK_SIZE]
            chunks.append((photos, annotations, target, ids, objects, size))
    processed = done = 0
    with progress("crops", sum(len(ids) for *_, ids, _, _ in chunks), unit="photos") as show:
        for number, failures in map_in_processes(_crop, chunks):
            processed += number
            done += number - len({file for file, _ in failures})
            failed += failures
            show(processed)
    failed.sort()
    other_folders = {folder for breed, folder in folders.items() if breed not in breeds}
    _write_skipped(crops / "skipped.csv", failed, other_folders)
    return {"done": done, "skipped_existing": existing, "failed": failed, "folder": crops}


def describe_crops(summary: dict) -> str:
    """Describe the result of crop_breeds in a few lines for the terminal."""
    done, existing, failed = summary["done"], summary["skipped_existing"], summary["failed"]
    lines = [f"{done:,} photos cropped, {existing:,} were cropped before, {len(failed):,} skipped"]
    lines += [f"  {file}: {reason}" for file, reason in failed[:SHOWN]]
    if len(failed) > SHOWN:
        lines.append(f"  and {len(failed) - SHOWN:,} more, see {summary['folder'] / 'skipped.csv'}")
    return "\n".join(lines)


def _find_missing_crops(
    photos: Path, annotations: Path, target: Path, objects: str
) -> tuple[list[str], int, list[Failure]]:
    """Return the ids without a crop, the number of photos cropped before, and the failures.

    These failures are photos without an XML file, and XML files without a photo.
    """
    photo_ids, xml_ids = stems(photos, ".jpg"), stems(annotations, "")
    unpaired = [
        (f"Images/{photos.name}/{stem}.jpg", "has no annotation") for stem in photo_ids - xml_ids
    ]
    unpaired += [
        (f"Annotation/{photos.name}/{stem}", "has no photo") for stem in xml_ids - photo_ids
    ]

    target.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(target)
    crops, ids = stems(target, ".jpg"), photo_ids & xml_ids
    # A crop counts only if it is newer than its photo and annotation, which may have changed
    done = {
        stem
        for stem in ids & crops
        if os.stat(f"{target}/{stem}.jpg").st_mtime
        >= max(os.stat(f"{photos}/{stem}.jpg").st_mtime, os.stat(f"{annotations}/{stem}").st_mtime)
    }
    if objects == "all":
        done = {stem for stem in done if _all_crops(stem, annotations / stem) <= crops}
    return sorted(ids - done), len(done), unpaired


def _all_crops(stem: str, xml_path: Path) -> set[str]:
    """Return the names of the crops of all boxes of a photo, without .jpg.

    If the XML is unusable, the only name is "", which no crop has. The photo is then tried again.
    """
    try:
        return {
            _crop_name(stem, number)
            for number in range(1, len(read_annotation(xml_path)["boxes"]) + 1)
        }
    except ValueError:
        return {""}


def _crop_name(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}_{number}"


def _crop(
    photos: Path, annotations: Path, target: Path, ids: list[str], objects: str, size: int
) -> tuple[int, list[Failure]]:
    """Crop photos of one breed in a worker process. Return how many, and the failures."""
    # Pillow only warns about images with too many pixels; treat them as broken
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    failed = []
    for stem in ids:
        file = f"Images/{photos.name}/{stem}.jpg"
        try:
            crops = crop_dogs(photos / f"{stem}.jpg", annotations / stem, objects, size)
        except Exception as error:  # Pillow raises nearly anything for broken files
            failed.append((file, str(error) or type(error).__name__))
            # Remove the crop from before the damage, or training would still use it
            (target / f"{stem}.jpg").unlink(missing_ok=True)
            continue
        for number, crop in enumerate(crops, 1):
            if crop:
                content = io.BytesIO()
                crop.save(content, **JPEG)
                with atomic_path(target / f"{_crop_name(stem, number)}.jpg") as temporary:
                    # Pillow's own writing would hide a full disk
                    temporary.write_bytes(content.getbuffer())
            else:
                (target / f"{_crop_name(stem, number)}.jpg").unlink(missing_ok=True)
                failed.append(
                    (file, f"box {number} is empty, inverted, outside the photo or not readable")
                )
    return len(ids), failed


def _write_skipped(path: Path, failed: list[Failure], other_folders: set[str]) -> None:
    """Write skipped.csv: these failures, and the earlier failures of `other_folders`."""
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            rows = [tuple(row) for row in csv.reader(file) if len(row) == 2]
        failed = sorted(failed + [row for row in rows if Path(row[0]).parent.name in other_folders])
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *failed])


# --- Command line ---------------------------------------------------------------------------------


def main() -> None:
    """Choose the breeds, crop them and print the result."""
    parser = script_parser(__doc__, "python data_selection.py --breeds top10")
    parser.add_argument(
        "--breeds",
        nargs="+",
        default=["all"],
        metavar="BREED",
        help="all (default), top10, or names",
    )
    parser.add_argument(
        "--objects",
        choices=["first", "all"],
        default="first",
        help="boxes to crop (default: first)",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="where raw/ is (default: %(default)s)"
    )
    args = parser.parse_args()
    with one_line_errors("interrupted; run it again to continue"):
        breeds = choose_breeds(args.data_dir, args.breeds)
        summary = crop_breeds(args.data_dir, breeds, args.objects)
        print(f"{summary['folder']}: {len(breeds)} breeds, {describe_crops(summary)}")


if __name__ == "__main__":
    main()
