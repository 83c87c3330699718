"""The Stanford Dogs dataset on disk: its folders, breeds, annotations and splits."""

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
TOP = 10  # number of breeds with most images that scripts choose by default
MAX_XML_BYTES = 2**16  # of an annotation; real ones have 1 or 2 kB
SUBSETS = ("train", "validation", "test")
PLAIN_SIZE = 299  # pixels; for crops of any other size, the folder's name ends in the size
USUAL_NAMES = {  # of breeds for which people use another name than the dataset
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

# xmin, ymin, xmax, ymax in pixels; xmax and ymax are the first column and row outside the box
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Task:
    """A training task: the classes, the split of the images, and the files that training needs.

    The name of an image consists of its class folder and file, such as
    n02085936-Maltese_dog/n02085936_37.jpg.
    """

    data_dir: Path
    classes: list[str]  # breeds in alphabetical order, which is the order of the model's outputs
    split: dict[str, str]  # image -> train, validation or test
    size: int = field(
        default_factory=lambda: recipe.SIZE
    )  # height and width of the model input in pixels
    seed: int = field(default_factory=lambda: recipe.SEED)
    # A model file, whose backbone computes the features
    backbone: Path = field(default_factory=lambda: recipe.MODEL)

    def images(self, subset: str) -> list[str]:
        """Return the images of a subset (train, validation or test), sorted."""
        return sorted(image for image in self.split if self.split[image] == subset)

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
        """The folder of the cached features, with a sub-folder for each backbone."""
        return features_dir(self.data_dir)


# --- Folders --------------------------------------------------------------------------------------


def images_dir(data_dir: Path) -> Path:
    """Return the folder of the photos: <wnid-Name>/<id>.jpg."""
    return data_dir / "raw" / "Images"


def annotation_dir(data_dir: Path) -> Path:
    """Return the folder of the Pascal VOC XML files: <wnid-Name>/<id>, without a suffix."""
    return data_dir / "raw" / "Annotation"


def weights_path(data_dir: Path) -> Path:
    """Return the file of the backbone's ImageNet weights, without the top (include_top=False)."""
    return data_dir / "weights" / f"{recipe.BACKBONE.lower()}_imagenet_notop.weights.h5"


def processed_dir(data_dir: Path, size: int | None = None) -> Path:
    """Return the folder of the crops of a size in pixels (default: recipe.SIZE).

    The crop of a photo's first box is <breed>/<id>.jpg, that of the second box <id>_2.jpg.
    """
    size = size or recipe.SIZE
    return data_dir / ("processed" if size == PLAIN_SIZE else f"processed_{size}")


def features_dir(data_dir: Path) -> Path:
    """Return the folder of the cached features."""
    return data_dir / "features"


# --- Breeds ---------------------------------------------------------------------------------------


def breed_name(folder: str) -> str:
    """Return the breed that a folder or a user names.

    "n02085936-Maltese_dog" and "Maltese dog" give "maltese_dog".
    """
    return re.sub(r"^n\d{8}-", "", folder).lower().replace("-", "_").replace(" ", "_")


def breed_folders(data_dir: Path) -> dict[str, str]:
    """Return the folder name of each breed, in the alphabetical order of the breeds.

    Raises FileNotFoundError if there are no folders, and ValueError if a breed has two.
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
    """Return the number of photos of each breed, largest first, ties in alphabetical order."""
    root = images_dir(data_dir)
    counts = {
        breed: len(stems(root / folder, ".jpg"))
        for breed, folder in breed_folders(data_dir).items()
    }
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def top_breeds(data_dir: Path) -> list[str]:
    """Return the TOP breeds with most photos, in alphabetical order."""
    return sorted(list(count_images(data_dir))[:TOP])


def choose_breeds(data_dir: Path, names: list[str]) -> list[str]:
    """Return the breeds that ["all"], ["top10"] or a list of names mean, in alphabetical order.

    Names may have any spelling that `breed_name` understands. Raises ValueError for an unknown
    breed.
    """
    if names == ["top10"]:
        return top_breeds(data_dir)
    known = list(breed_folders(data_dir))
    if names == ["all"]:
        return known
    chosen = sorted({breed_name(name) for name in names})
    for breed in chosen:
        if breed not in known:
            similar = (
                difflib.get_close_matches(breed, known)
                or [name for name in known if breed in name][:3]
            )
            hint = (
                f"did you mean {' or '.join(similar)}?"
                if similar
                else f"choose all, top10 or names from this list: {', '.join(known)}"
            )
            raise ValueError(f"unknown breed {breed!r}; {hint}")
    return chosen


def display_name(breed: str) -> str:
    """Return a breed's name for people, such as "Bouvier des Flandres" or "Maltese".

    The name of another class stays as its user wrote it, with spaces instead of "_".
    """
    # Only lower-case words are a breed of the dataset; "M6 screws" is a class of a user
    if breed in USUAL_NAMES or not re.fullmatch("[a-z]+(_[a-z]+)*", breed):
        return USUAL_NAMES.get(breed, breed.replace("_", " "))
    words = (word if word in ("and", "des") else word.capitalize() for word in breed.split("_"))
    return " ".join(words).replace(" Coated", "-coated")


def stems(folder: Path, suffix: str) -> set[str]:
    """Return the names of a folder's files that end in `suffix`, without the suffix.

    Hidden files are left out. If the folder does not exist, the result is empty.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    return {
        name.removesuffix(suffix)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    }


# --- Annotations ----------------------------------------------------------------------------------


def read_annotation(xml_path: Path) -> dict:
    """Read a Pascal VOC file: {"width": pixels, "height": pixels, "boxes": [Box, ...]}.

    The boxes have the file's order. An unreadable box becomes the empty box (0, 0, 0, 0), so that
    the other boxes keep their numbers. Raises ValueError, with the file's name, if the XML is not
    readable or has no size or no box.
    """
    with open(xml_path, "rb") as file:
        content = file.read(MAX_XML_BYTES + 1)
    try:
        if len(content) > MAX_XML_BYTES:
            raise ValueError(f"it is larger than {MAX_XML_BYTES:,} bytes")
        # Decode as UTF-8 here, because the parser would accept other encodings, in which the
        # next test would not find a document type
        text = content.decode("utf-8-sig")
        if "<!DOCTYPE" in text:
            raise ValueError("it has a document type, which could define entities")
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
    except (ValueError, OverflowError):  # OverflowError: the text is "inf"
        raise ValueError(f"{tag} is {text!r} instead of a number of pixels") from None


def _box(element: ElementTree.Element) -> Box:
    try:
        left, top = _pixels(element, "xmin"), _pixels(element, "ymin")
        return left, top, _pixels(element, "xmax"), _pixels(element, "ymax")
    except ValueError:
        return (0, 0, 0, 0)


def clip_box(box: Box, width: int, height: int) -> Box | None:
    """Return the part of a box inside an image of this size in pixels.

    Returns None if the box is outside the image, empty or inverted.
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
    """Split each breed's images 70/15/15; return image -> train, validation or test.

    Raises ValueError if a breed has too few images.
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
    # utf-8-sig, because spreadsheets put a byte-order mark first
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        if not {"image", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path}: the first line must name the columns image and split")
        split, contradictory = {}, set()
        for row in rows:
            subset = row["split"] or ""
            if split.setdefault(row["image"], subset) != subset:
                contradictory.add(row["image"])
    if contradictory:
        raise ValueError(
            f"{path} lists {len(contradictory):,} images in two splits, such as "
            f"{min(contradictory)}; keep one row of each"
        )
    unknown = sorted(set(split.values()) - set(SUBSETS))
    if unknown:
        raise ValueError(f"{path}: unknown split {unknown[0]!r}; use train, validation or test")
    return split


def check_split(path: Path, given: dict[str, str], data_dir: Path, breeds: Sequence[str]) -> None:
    """Raise ValueError if a split file does not match the photos in data/raw.

    It must not list missing images of the chosen `breeds`, and must list an image of any breed in
    data/raw. Rows of breeds that are not in data/raw are allowed; their number is printed.
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
    other_breeds = [image for image in given if image.split("/")[0] not in folders.values()]
    if len(other_breeds) == len(given):
        raise ValueError(
            f"{path}: none of its {len(given):,} images is of a breed in {images_dir(data_dir)}; "
            f"a row must look like {min(photos, default='n02085936-Maltese_dog/n02085936_37.jpg')}"
            f",train"
        )
    if other_breeds:
        print(f"{path}: {len(other_breeds):,} rows are of breeds that {images_dir(data_dir)} lacks")


def apply_split(images: dict[str, list[str]], given: dict[str, str], seed: int) -> dict[str, str]:
    """Split images as a split file says.

    If the file has no validation rows, 15 % of each breed's train images become validation images.
    Raises ValueError if a breed then has no images in one of the subsets.
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
