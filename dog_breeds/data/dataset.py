"""The Stanford Dogs data set on disk: folders, breeds, annotations, and how its images are
split."""

import csv
import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dog_breeds import recipe

DATA_DIR = Path("data")
TOP = 10  # breeds, by number of images: those of the original model
MAX_XML = 2**16  # bytes; real annotations have 1 or 2 kB
SUBSETS = ("train", "validation", "test")
PLAIN_SIZE = 299  # pixels; the folder of crops of any other size has the size in its name
USUAL_NAMES = {  # of breeds that people call otherwise than the data set does
    "african_hunting_dog": "African Wild Dog",
    "airedale": "Airedale Terrier",
    "appenzeller": "Appenzeller Sennenhund",
    "basset": "Basset Hound",
    "blenheim_spaniel": "Cavalier King Charles Spaniel",
    "bluetick": "Bluetick Coonhound",
    "boston_bull": "Boston Terrier",
    "brabancon_griffon": "Brussels Griffon",
    "brittany_spaniel": "Brittany",
    "bull_mastiff": "Bullmastiff",
    "cairn": "Cairn Terrier",
    "cardigan": "Cardigan Welsh Corgi",
    "chow": "Chow Chow",
    "clumber": "Clumber Spaniel",
    "dandie_dinmont": "Dandie Dinmont Terrier",
    "doberman": "Doberman Pinscher",
    "english_springer": "English Springer Spaniel",
    "entlebucher": "Entlebucher Mountain Dog",
    "eskimo_dog": "Canadian Eskimo Dog",
    "german_short_haired_pointer": "German Shorthaired Pointer",
    "japanese_spaniel": "Japanese Chin",
    "kelpie": "Australian Kelpie",
    "leonberg": "Leonberger",
    "lhasa": "Lhasa Apso",
    "malamute": "Alaskan Malamute",
    "malinois": "Belgian Malinois",
    "maltese_dog": "Maltese",
    "mexican_hairless": "Xoloitzcuintli",
    "pekinese": "Pekingese",
    "pembroke": "Pembroke Welsh Corgi",
    "redbone": "Redbone Coonhound",
    "scotch_terrier": "Scottish Terrier",
    "staffordshire_bullterrier": "Staffordshire Bull Terrier",
    "walker_hound": "Treeing Walker Coonhound",
    "wire_haired_fox_terrier": "Wire Fox Terrier",
}

# xmin, ymin, xmax, ymax in pixels; xmax and ymax are the first column and row outside
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Task:
    """What a classifier is to learn, from which images, and where the files for that are.

    An image is named by its class folder and file: n02085936-Maltese_dog/n02085936_37.jpg.
    """

    data_dir: Path
    classes: list[str]  # breeds, alphabetical: the order of the model's outputs
    split: dict[str, str]  # image -> train, validation or test
    size: int = field(default_factory=lambda: recipe.SIZE)  # pixels a side of what the model sees
    seed: int = field(default_factory=lambda: recipe.SEED)
    # A model file; its backbone gives the features
    backbone: Path = field(default_factory=lambda: recipe.MODEL)

    def images(self, part: str) -> list[str]:
        """Return the images of one part of the split, sorted."""
        return sorted(image for image, its_part in self.split.items() if its_part == part)

    def labels(self, images: Sequence[str]) -> np.ndarray:
        """Return the class index of each image, int [n]."""
        return np.array([self.classes.index(breed_name(image.split("/")[0])) for image in images])

    def photo(self, image: str) -> Path:
        """Return the file of an image's photo."""
        return images_dir(self.data_dir) / image

    def crop(self, image: str) -> Path:
        """Return the file of the crop that data_selection.py makes of an image."""
        folder, file = image.split("/")
        return processed_dir(self.data_dir, self.size) / breed_name(folder) / file

    @property
    def weights(self) -> Path:
        """The file of the backbone's Keras weights."""
        return weights_path(self.data_dir)

    @property
    def feature_cache(self) -> Path:
        """The folder of the cached features, a sub-folder for each backbone."""
        return features_dir(self.data_dir)


# --- Folders --------------------------------------------------------------------------------------


def images_dir(data_dir: Path) -> Path:
    """Return the folder of the photos: <wnid-Name>/<id>.jpg."""
    return data_dir / "raw" / "Images"


def annotation_dir(data_dir: Path) -> Path:
    """Return the folder of the Pascal VOC XML files: <wnid-Name>/<id>, without extension."""
    return data_dir / "raw" / "Annotation"


def weights_path(data_dir: Path) -> Path:
    """Return the file of the backbone's weights without its top (include_top=False), trained on
    ImageNet.
    """
    return data_dir / "weights" / f"{recipe.BACKBONE.lower()}_imagenet_notop.weights.h5"


def processed_dir(data_dir: Path, size: int | None = None) -> Path:
    """Return the folder of the crops of a size in pixels (default: recipe.SIZE).

    It holds <breed>/<id>.jpg for a photo's first box, <id>_2.jpg ... for further ones.
    """
    size = size or recipe.SIZE
    return data_dir / ("processed" if size == PLAIN_SIZE else f"processed_{size}")


def features_dir(data_dir: Path) -> Path:
    """Return the folder of the cached features."""
    return data_dir / "features"


# --- Breeds ---------------------------------------------------------------------------------------


def breed_name(folder: str) -> str:
    """Return the breed of a folder: "n02085936-Maltese_dog" and "Maltese dog" give
    "maltese_dog"."""
    return re.sub(r"^n\d{8}-", "", folder).lower().replace("-", "_").replace(" ", "_")


def breed_folders(data_dir: Path) -> dict[str, str]:
    """Return the folder name of each breed, alphabetical by breed; FileNotFoundError if there are
    no photos.
    """
    root = images_dir(data_dir)
    entries = os.scandir(root) if root.is_dir() else []
    folders = sorted(
        entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise FileNotFoundError(f"no photos in {root}; run make_dataset.py first")
    breeds: dict[str, str] = {}
    for folder in folders:
        other = breeds.setdefault(breed_name(folder), folder)
        if other != folder:
            raise ValueError(
                f"{root} has two folders of {breed_name(folder)}: {other} and {folder}; rename one"
            )
    return dict(sorted(breeds.items()))


def count_images(data_dir: Path) -> dict[str, int]:
    """Return the number of photos of each breed, most numerous first, ties alphabetical."""
    root = images_dir(data_dir)
    counts = {
        breed: len(stems(root / folder, ".jpg"))
        for breed, folder in breed_folders(data_dir).items()
    }
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def top_breeds(data_dir: Path) -> list[str]:
    """Return the TOP breeds with most photos, alphabetical."""
    return sorted(list(count_images(data_dir))[:TOP])


def choose_breeds(data_dir: Path, names: list[str]) -> list[str]:
    """Return what ["all"], ["top10"] or names in any spelling mean, alphabetical; ValueError for an
    unknown breed.
    """
    if names == ["top10"]:
        return top_breeds(data_dir)
    known = list(breed_folders(data_dir))
    if names == ["all"]:
        return known
    chosen = sorted({breed_name(name) for name in names})
    for breed in chosen:
        if breed not in known:
            near = (
                difflib.get_close_matches(breed, known)
                or [name for name in known if breed in name][:3]
            )
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"choose all, top10 or some of: {', '.join(known)}"
            )
            raise ValueError(f"unknown breed {breed!r}; {hint}")
    return chosen


def display_name(breed: str) -> str:
    """Return a breed's name for people: "Bouvier des Flandres", "Maltese"; other classes as
    written, without _.
    """
    if breed in USUAL_NAMES or not re.fullmatch("[a-z]+(_[a-z]+)*", breed):
        return USUAL_NAMES.get(breed, breed.replace("_", " "))
    words = (word if word in ("and", "des") else word.capitalize() for word in breed.split("_"))
    return " ".join(words).replace(" Coated", "-coated")


def stems(folder: Path, suffix: str) -> set[str]:
    """Return the names in a folder that end in `suffix`, without it; none if there is no folder.
    Opens no file.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    return {
        name.removesuffix(suffix)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    }


# --- Annotations ----------------------------------------------------------------------------------


def read_annotation(xml_path: Path) -> dict:
    """Read a Pascal VOC file: {"width": pixels, "height": pixels, "boxes": [Box, ...]}, boxes in
    the file's order.

    A box that cannot be read is (0, 0, 0, 0), as empty as it is useless, so that it does not cost
    the other boxes. Raises ValueError, with the file's name, if there is no size, no object or no
    readable XML.
    """
    with open(xml_path, "rb") as file:
        content = file.read(MAX_XML + 1)
    try:
        if len(content) > MAX_XML:
            raise ValueError(f"larger than {MAX_XML:,} bytes")
        # One known encoding, so that nothing hides from the next line
        text = content.decode("utf-8-sig")
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
        left, top = _pixels(element, "xmin"), _pixels(element, "ymin")
        return left, top, _pixels(element, "xmax"), _pixels(element, "ymax")
    except ValueError:
        return (0, 0, 0, 0)


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Return the part of a box inside a picture of this size; None if there is none or the box is
    inverted.
    """
    xmin, ymin, xmax, ymax = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return (xmin, ymin, xmax, ymax) if xmin < xmax and ymin < ymax else None


# --- Split ----------------------------------------------------------------------------------------


def list_images(
    data_dir: Path, breeds: Sequence[str], size: int | None = None
) -> dict[str, list[str]]:
    """Return, for each breed, the sorted names of the images that have a crop of this size."""
    folders = breed_folders(data_dir)
    images = {}
    for breed in breeds:
        photos = {entry.name for entry in os.scandir(images_dir(data_dir) / folders[breed])}
        crops = {entry.name for entry in os.scandir(processed_dir(data_dir, size) / breed)}
        images[breed] = [f"{folders[breed]}/{name}" for name in sorted(photos & crops)]
    return images


def split_images(images: dict[str, list[str]], seed: int) -> dict[str, str]:
    """Split each breed's images 70/15/15; return image -> train, validation or test. ValueError for
    too few.
    """
    rng = np.random.default_rng(seed)
    split = {}
    for breed in sorted(images):
        shuffled = rng.permutation(images[breed]).tolist()
        validation = round(recipe.VALIDATION_SHARE * len(shuffled))
        test = round(recipe.TEST_SHARE * len(shuffled))
        if not validation or not test:
            raise ValueError(
                f"{breed} has {len(shuffled)} crops, too few to split; skipped.csv may say why"
            )
        names = (
            ["validation"] * validation
            + ["test"] * test
            + ["train"] * (len(shuffled) - validation - test)
        )
        split |= dict(zip(shuffled, names, strict=True))
    return split


def read_split(path: Path) -> dict[str, str]:
    """Read a CSV file with the columns image and split; return image -> split."""
    # -sig: as spreadsheets write it
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        if not {"image", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path}: the first line must name the columns image and split")
        split, twice = {}, set()
        for row in rows:
            part = row["split"] or ""
            if split.setdefault(row["image"], part) != part:
                twice.add(row["image"])
    if twice:
        raise ValueError(
            f"{path} lists {len(twice):,} images in two splits, such as {min(twice)}; keep one row "
            f"of each"
        )
    wrong = sorted(set(split.values()) - set(SUBSETS))
    if wrong:
        raise ValueError(f"{path}: unknown split {wrong[0]!r}; use train, validation or test")
    return split


def check_split(path: Path, given: dict[str, str], data_dir: Path, breeds: Sequence[str]) -> None:
    """Raise ValueError if a split file lists images of these breeds that do not exist, or none of
    a breed that exists. Print how many rows are of breeds that are not in data/raw.
    """
    folders = breed_folders(data_dir)
    chosen = {folders[breed] for breed in breeds}
    photos = {
        f"{folder}/{stem}.jpg"
        for folder in chosen
        for stem in stems(images_dir(data_dir) / folder, ".jpg")
    }
    listed = [image for image in given if image.split("/")[0] in chosen]
    missing = sorted({*listed} - photos)
    if missing:
        raise ValueError(
            f"{path}: {len(missing):,} of {len(listed):,} images of these breeds do not exist in "
            f"{images_dir(data_dir)}, such as {missing[0]}; remove their rows"
        )
    foreign = [image for image in given if image.split("/")[0] not in folders.values()]
    if len(foreign) == len(given):
        raise ValueError(
            f"{path}: none of its {len(given):,} images is of a breed in {images_dir(data_dir)}; "
            f"a row must be like {min(photos, default='n02085936-Maltese_dog/n02085936_37.jpg')}"
            f",train"
        )
    if foreign:
        print(f"{path}: {len(foreign):,} rows are of breeds that {images_dir(data_dir)} lacks")


def apply_split(images: dict[str, list[str]], given: dict[str, str], seed: int) -> dict[str, str]:
    """Split images as given; without validation rows, 15 % of each breed's train rows become
    validation images.
    """
    rng = np.random.default_rng(seed)
    draw_validation = "validation" not in given.values()
    split = {}
    for breed in sorted(images):
        listed = [image for image in images[breed] if image in given]
        split |= {image: given[image] for image in listed}
        if draw_validation:
            train = rng.permutation([image for image in listed if given[image] == "train"]).tolist()
            split |= dict.fromkeys(
                train[: round(recipe.VALIDATION_SHARE * len(train))], "validation"
            )
        missing = set(SUBSETS) - {split[image] for image in listed}
        if missing:
            raise ValueError(f"the split file gives {breed} no {sorted(missing)[0]} images")
    return split
