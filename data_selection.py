"""Cut the dogs out of the Stanford Dogs photos.

Reads   data/raw (made by make_dataset.py): photos, and an XML file per photo with a box around each dog.
Writes  data/processed/<breed>/<id>.jpg: the dog in its box, 299 x 299 RGB. data/processed/skipped.csv: what failed.

    python data_selection.py                                    # all 120 breeds, 20,580 crops: half a minute on 2 cores
    python data_selection.py --breeds top10                     # the ten breeds with most photos
    python data_selection.py --breeds pug "Great Pyrenees" --objects all   # every box of a photo, not only the first

Originals are never changed. A crop that exists is taken as done, so an interrupted run continues when it is started
again; delete data/processed if the originals have changed.
"""

import argparse
import contextlib
import csv
import difflib
import io
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from PIL import ExifTags, Image, ImageOps

from make_dataset import DATA_DIR, annotation_dir, images_dir, progress

CROP_SIZE = 299  # pixels: the input size of Xception
# The first setting with which less than 1 % of the pixels of real crops are off by more than is just noticeable (2.3
# CIELAB units): 0.4 %, at 47 dB and 35 kB. With subsampling 2.4 %, at quality 90 1.8 %: jpeg_* in benchmarks/data.py.
JPEG = {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"}
MAX_XML = 2**16  # bytes; real annotations have 1 or 2 kB
CHUNK = 32  # photos handed to a worker at once, some 0.1 s of work
SHOWN = 10  # failures named in the terminal

Box = tuple[int, int, int, int]  # xmin, ymin, xmax, ymax in pixels; xmax and ymax are the first column and row outside
Failure = tuple[str, str]  # file relative to data/raw, what is wrong with it

# ---------------------------------------------------------------- breeds


def breed_name(folder: str) -> str:
    """Breed of a folder: "n02085936-Maltese_dog" and "Maltese dog" give "maltese_dog"."""
    return re.sub(r"^n\d{8}-", "", folder).lower().replace("-", "_").replace(" ", "_")


def breed_folders(data_dir: Path) -> dict[str, str]:
    """Folder name of each breed, alphabetical by breed; FileNotFoundError if there are no photos."""
    root = images_dir(data_dir)
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir()] if root.is_dir() else []
    if not folders:
        raise FileNotFoundError(f"no photos in {root}; run make_dataset.py first")
    return dict(sorted((breed_name(folder), folder) for folder in folders))


def count_images(data_dir: Path) -> dict[str, int]:
    """Number of photos of each breed, most numerous first, ties alphabetical."""
    root = images_dir(data_dir)
    counts = {breed: len(_stems(root / folder, ".jpg")) for breed, folder in breed_folders(data_dir).items()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def top_breeds(data_dir: Path, number: int = 10) -> list[str]:
    """The breeds with most photos, alphabetical."""
    return sorted(list(count_images(data_dir))[:number])


def choose_breeds(data_dir: Path, names: list[str]) -> list[str]:
    """Breeds meant by ["all"], ["top10"] or names in any spelling, alphabetical; ValueError for an unknown one."""
    if names == ["top10"]:
        return top_breeds(data_dir)
    known = list(breed_folders(data_dir))
    if names == ["all"]:
        return known
    chosen = sorted({breed_name(name) for name in names})
    for breed in chosen:
        if breed not in known:
            near = difflib.get_close_matches(breed, known) or [name for name in known if breed in name][:3]
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose all, top10 or some of: {', '.join(known)}"
            raise ValueError(f"unknown breed {breed!r}; {hint}")
    return chosen


def _stems(folder: Path, suffix: str) -> set[str]:
    """Names in a folder that end in `suffix`, without it; none if there is no folder. Reads no file's metadata."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")}


# ---------------------------------------------------------------- annotations and pixels


def read_annotation(xml_path: Path) -> dict:
    """Read a Pascal VOC file: {"width": pixels, "height": pixels, "boxes": [Box, ...]}, boxes in the file's order.

    A box that cannot be read is (0, 0, 0, 0), as empty as it is useless, so that it does not cost the other boxes.
    Raises ValueError, with the file's name, if there is no size, no object or no readable XML.
    """
    with open(xml_path, "rb") as file:
        content = file.read(MAX_XML + 1)
    try:
        if len(content) > MAX_XML:
            raise ValueError(f"larger than {MAX_XML:,} bytes")
        text = content.decode("utf-8-sig")  # one known encoding, so that nothing hides from the next line
        if "<!DOCTYPE" in text:
            raise ValueError("a document type, which could define entities")
        root = ElementTree.fromstring(text)
        annotation = {"width": _pixels(root, "size/width"), "height": _pixels(root, "size/height")}
    except (ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"{xml_path}: unusable XML: {error}") from None
    annotation["boxes"] = [_box(element) for element in root.iterfind("object/bndbox")]
    if not annotation["boxes"]:
        raise ValueError(f"{xml_path}: no object with a box")
    return annotation


def _pixels(element: ElementTree.Element, tag: str) -> int:
    text = element.findtext(tag, "")
    try:
        return round(float(text))
    except (ValueError, OverflowError):  # OverflowError: infinite
        raise ValueError(f"{tag} is {text!r} instead of a number of pixels") from None


def _box(element: ElementTree.Element) -> Box:
    try:
        return tuple(_pixels(element, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return (0, 0, 0, 0)


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """The part of a box inside a picture of this size; None if there is none or the box is inverted."""
    xmin, ymin, xmax, ymax = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return (xmin, ymin, xmax, ymax) if xmin < xmax and ymin < ymax else None


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture in RGB: transparency over white, 16-bit gray by its upper byte (so Pillow reads 16-bit RGB)."""
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def read_photo(file: str | Path | IO[bytes], least: int | None = None) -> Image.Image:
    """A whole photo, upright, RGB. With `least`, a large JPEG is decoded at a smaller scale, both sides >= `least`.

    Raises OSError.
    """
    with Image.open(file) as image:
        if least:
            image.draft(None, (least, least))
        return to_rgb(ImageOps.exif_transpose(image))


def read_pixels(file: str | Path | IO[bytes], size: int, share: float = 1.0) -> Image.Image:
    """A photo as the model sees it: the central `share` of both sides, RGB, size x size. Raises OSError.

    lambda_function.py has the same lines, so that the service sees the pixels that training saw.
    """
    return resize(read_photo(file, math.ceil(size / share)), size, share)


def resize(image: Image.Image, size: int, share: float = 1.0) -> Image.Image:
    """The one resize of the project: the central `share` of both sides, squashed to a square, bilinear, antialiased."""
    left, top = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def crop_dogs(photo_path: Path, xml_path: Path, objects: str = "first") -> list[Image.Image | None]:
    """Cut the dog in the first box, or in each box (objects="all"), out of a photo: upright, RGB, 299 x 299.

    None stands for a box that is empty, inverted, outside the photo or not readable. Raises ValueError if the XML is
    not readable or contradicts the photo's size, OSError if the photo cannot be decoded in full.
    """
    dogs = _cut(Path(photo_path), Path(xml_path), objects)
    return [dog and resize(dog, CROP_SIZE) for dog in dogs]  # with the photo's memory free: a third faster


def _cut(photo_path: Path, xml_path: Path, objects: str) -> list[Image.Image | None]:
    """The dogs of crop_dogs, in the size they have in the photo."""
    annotation = read_annotation(xml_path)
    size = annotation["width"], annotation["height"]
    with Image.open(photo_path) as photo:
        # Boxes refer to the picture whose size the XML states: as stored or, if only that fits, upright. Where both fit
        # (square, mirrored or upside down): as stored, since the tools of the annotators knew nothing of EXIF.
        if size in (photo.size, (0, 0)):  # 0 x 0: not stated
            image = photo
        elif size == photo.size[::-1] and photo.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            image = ImageOps.exif_transpose(photo)
        else:
            stated = f"{xml_path} says {size[0]} x {size[1]} pixels"
            raise ValueError(f"{stated}, the photo has {photo.width} x {photo.height}")
        boxes = [clip_box(box, *image.size) for box in annotation["boxes"]]
        boxes = boxes if objects == "all" else boxes[:1]
        # A crop as stored is rotated after cutting, which is the same as rotating photo and box.
        return [box and to_rgb(ImageOps.exif_transpose(image.crop(box))) for box in boxes]


# ---------------------------------------------------------------- files


def processed_dir(data_dir: Path) -> Path:
    """Folder of the crops: <breed>/<id>.jpg for a photo's first box, <id>_2.jpg, <id>_3.jpg ... for further ones."""
    return Path(data_dir) / "processed"


def photo_id(crop: str) -> str:
    """Id of the photo that a crop comes from: "n02085936_37_2" and "n02085936_37.jpg" give "n02085936_37"."""
    return re.sub(r"^(.+_\d+)_\d+$", r"\1", Path(crop).stem)


def crop_breeds(data_dir: Path, breeds: list[str], objects: str = "first") -> dict:
    """Make the crops of these breeds that are missing, on all cores, and write data/processed/skipped.csv.

    Returns {"done": photos cropped now, "skipped_existing": photos cropped before, "failed": [Failure, ...]}. What
    fails is tried again, and reported again, in every run.
    """
    folders = breed_folders(data_dir)
    chunks, existing, failed = [], 0, []
    for breed in breeds:
        photos, annotations = images_dir(data_dir) / folders[breed], annotation_dir(data_dir) / folders[breed]
        target = processed_dir(data_dir) / breed
        missing, present, lonely = _take_stock(photos, annotations, target, objects)
        existing += present
        failed += lonely
        for start in range(0, len(missing), CHUNK):
            chunks.append((photos, annotations, target, missing[start : start + CHUNK], objects))
    seen = done = 0
    with progress("crops", sum(len(ids) for *_, ids, _ in chunks), unit="photos", scale=1) as show:
        for number, failures in _in_processes(_crop, chunks):
            seen += number
            done += number - len({file for file, _ in failures})
            failed += failures
            show(seen)
    failed.sort()
    others = {folder for breed, folder in folders.items() if breed not in breeds}
    _write_skipped(processed_dir(data_dir) / "skipped.csv", failed, others)
    return {"done": done, "skipped_existing": existing, "failed": failed}


def report(summary: dict, data_dir: Path) -> str:
    """What crop_breeds did, as a few lines for the terminal."""
    done, existing, failed = summary["done"], summary["skipped_existing"], summary["failed"]
    lines = [f"{done:,} photos cropped, {existing:,} were cropped before, {len(failed):,} skipped"]
    lines += [f"  {file}: {reason}" for file, reason in failed[:SHOWN]]
    if len(failed) > SHOWN:
        lines.append(f"  and {len(failed) - SHOWN:,} more, see {processed_dir(data_dir) / 'skipped.csv'}")
    return "\n".join(lines)


def _take_stock(photos: Path, annotations: Path, target: Path, objects: str) -> tuple[list[str], int, list[Failure]]:
    """Of a breed: the ids of photos to crop, the number cropped already, and photos and XML files without the other."""
    photo_ids, xml_ids = _stems(photos, ".jpg"), _stems(annotations, "")
    lonely = [(f"Images/{photos.name}/{stem}.jpg", "has no annotation") for stem in photo_ids - xml_ids]
    lonely += [(f"Annotation/{photos.name}/{stem}", "has no photo") for stem in xml_ids - photo_ids]

    target.mkdir(parents=True, exist_ok=True)
    for stem in _stems(target, ".part"):  # left by a killed run
        (target / f"{stem}.part").unlink()
    crops, ids = _stems(target, ".jpg"), photo_ids & xml_ids
    done = ids & crops
    if objects == "all":
        done = {stem for stem in done if _all_crops(stem, annotations / stem) <= crops}
    return sorted(ids - done), len(done), lonely


def _all_crops(stem: str, xml_path: Path) -> set[str]:
    """Names, without .jpg, of the crops of all boxes of a photo; a name no file has if the XML is unusable."""
    try:
        return {_crop_name(stem, number) for number in range(1, len(read_annotation(xml_path)["boxes"]) + 1)}
    except ValueError:
        return {""}


def _crop_name(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}_{number}"


def _crop(photos: Path, annotations: Path, target: Path, ids: list[str], objects: str) -> tuple[int, list[Failure]]:
    """Crop some photos of a breed; how many, and which failed. Runs in a worker."""
    failed = []
    for stem in ids:
        file = f"Images/{photos.name}/{stem}.jpg"
        try:
            crops = crop_dogs(photos / f"{stem}.jpg", annotations / stem, objects)
        except Exception as error:  # broken files make Pillow raise nearly anything
            failed.append((file, str(error) or type(error).__name__))
            continue
        for number, crop in enumerate(crops, 1):
            if crop:
                content = io.BytesIO()
                crop.save(content, **JPEG)
                part = target / f"{stem}.part"
                part.write_bytes(content.getbuffer())  # not Pillow's own writing: it hides that a disk is full
                os.replace(part, target / f"{_crop_name(stem, number)}.jpg")
            else:
                failed.append((file, f"box {number} is empty, inverted, outside the photo or not readable"))
    return len(ids), failed


def _write_skipped(path: Path, failed: list[Failure], others: set[str]) -> None:
    """Write skipped.csv: these failures, and those of earlier runs in the breed folders `others`."""
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            rows = [tuple(row) for row in csv.reader(file) if len(row) == 2]
        failed = sorted(failed + [row for row in rows if Path(row[0]).parent.name in others])
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *failed])
    os.replace(part, path)


# ---------------------------------------------------------------- processes


def _in_processes(function: Callable, tasks: list[tuple]) -> Iterator:
    """Results of function(*task), in the order they come, from a process per core. Holds few tasks and results at once.

    Workers are spawned, not forked: safe beside TensorFlow's threads, and the same on every system.
    """
    if not tasks:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(cores, len(tasks), 61)  # 61: what Windows can wait for
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        pending = set()
        for task in tasks:
            if len(pending) == 2 * workers:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
            with _starting_workers():
                pending.add(pool.submit(function, *task))
        for future in as_completed(pending):
            yield future.result()


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
    """Processes started in here import this module instead of the script that runs, and never get Ctrl-C.

    With training.py as that script each of them would load TensorFlow. Ctrl-C is their parent's to handle.
    """
    main, can_mask = sys.modules["__main__"], hasattr(signal, "pthread_sigmask")  # no such thing on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_mask else None
    sys.modules["__main__"] = sys.modules[__name__]
    # glibc: take 16 MB from the system at once. Else workers return memory and take it again with each photo, for 9 %.
    os.environ["MALLOC_TOP_PAD_"] = str(2**24)
    try:
        yield
    finally:
        del os.environ["MALLOC_TOP_PAD_"]
        sys.modules["__main__"] = main
        if can_mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow's remarks on odd files
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _end_with_parent() -> None:
    """A parent that was killed tells nobody: without this its workers would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


# ---------------------------------------------------------------- command line


def main() -> None:
    """Choose the breeds, crop them, tell what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--breeds", nargs="+", default=["all"], metavar="BREED", help="all (default), top10, or names")
    parser.add_argument("--objects", choices=["first", "all"], default="first", help="boxes to crop (default: first)")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where raw/ is (default: %(default)s)")
    args = parser.parse_args()
    try:
        breeds = choose_breeds(args.data_dir, args.breeds)
        summary = crop_breeds(args.data_dir, breeds, args.objects)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"data_selection.py: {error}")
    except KeyboardInterrupt:
        sys.exit("data_selection.py: interrupted; run it again to continue")
    print(f"{processed_dir(args.data_dir)}: {len(breeds)} breeds, {report(summary, args.data_dir)}")


if __name__ == "__main__":
    main()
