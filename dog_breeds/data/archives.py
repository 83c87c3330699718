"""The two archives of the data set: fetched from an unreliable server, verified, extracted from
untrusted bytes.
"""

import contextlib
import hashlib
import http.client
import json
import re
import shutil
import tarfile
import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests

from dog_breeds.clients.endpoint import open_session
from dog_breeds.console import progress, with_progress, write_atomically

ARCHIVES = {  # top folder, suffix of the files; the small one is fetched first
    "annotation.tar": ("Annotation", ""),
    "images.tar": ("Images", ".jpg"),
}
# Seconds to connect; seconds without a byte after which the line counts as broken
TIMEOUT = 10, 20
PAUSES = (1, 2, 4, 8)  # seconds before each further try; any real progress starts the row afresh
MAX_MEMBER = 64 * 2**20  # bytes; the largest file of the real archives is far below
INSTEAD = (
    "name a folder or address that has images.tar and annotation.tar with --base-url (or "
    "STANFORD_DOGS_MIRROR), or draw the demo set with --demo"
)


# --- Fetch ----------------------------------------------------------------------------------------


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    sha256: str | None = None,
    instead: str = INSTEAD,
) -> None:
    """Download `url` to `path`, continuing an earlier try; `path` appears only when it is whole.

    `size` (bytes) and `sha256` (hex) are checked where given. Raises FileNotFoundError where the
    server refuses the file, ConnectionError when all tries failed, ValueError when the bytes are
    not the expected ones; `instead` ends their messages: what the user can do.
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
                raise ValueError(f"{url} is not the expected file: its SHA-256 differs; {instead}")
            # Once more, from zero: a continued file may be pieced together from two versions
            spoiled = True
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            if 400 <= status < 500 and status not in (408, 416, 429):
                raise FileNotFoundError(f"{url}: {reason(error)}; {instead}") from None
            # ValueError: the address makes no sense
            if isinstance(error, ValueError | requests.TooManyRedirects):
                raise ConnectionError(f"{url}: {reason(error)}; {instead}") from None
            have = part.stat().st_size if part.exists() else 0
            if have > best + 1000 + read_note(note).get("size", 0) // 100:
                pauses, best = list(PAUSES), have
            what = f"{urlsplit(url).hostname} {reason(error)}"
            if not pauses:
                raise ConnectionError(
                    f"{what} ({len(PAUSES) + 1} tries without progress); {instead}"
                ) from None
            print(f"{what}; next try in {pauses[0]} s", flush=True)
            time.sleep(pauses.pop(0))


def receive(url: str, part: Path, note: Path, size: int | None, sha256: str | None) -> None:
    """Bring `part` to its full length in one request; RequestException if that fails, with what
    came kept in `part`.
    """
    known = read_note(note)
    have = part.stat().st_size if part.exists() else 0
    # Continue only what can be told to be the same file: by the server's validator now or by the
    # SHA-256 at the end
    if known.get("url") != url or not known.get("size") or not (sha256 or known.get("validator")):
        have = 0
    if have and have == known["size"]:
        return
    headers = {"User-Agent": "dog-breeds/1.0", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    with (
        open_session(url) as session,
        session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response,
    ):
        if response.status_code == 416:
            part.unlink(missing_ok=True)
        response.raise_for_status()
        if have and response.status_code == 206:
            expected = f"bytes {have}-{known['size'] - 1}/{known['size']}"
            if (
                response.headers.get("Content-Range") != expected
                or validator(response) != known["validator"]
            ):
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
            write_atomically(
                note, json.dumps({"url": url, "size": total or 0, "validator": validator(response)})
            )
        else:
            raise requests.RequestException(f"gives the unexpected answer {response.status_code}")
        if total:  # as much again for the extracted files
            need_space(part.parent, 2 * total - have)
        with progress(part.stem, total, start=have) as show, part.open("ab", buffering=0) as file:
            # Small: a broken line costs at most one chunk
            for chunk in response.iter_content(1 << 14):
                file.write(chunk)
                have += len(chunk)
                show(have)
    if total and have != total:
        if have > total:
            part.unlink()
        raise requests.RequestException(f"sent {have} bytes instead of {total}")


def validator(response: requests.Response) -> str | None:
    """Return what surely tells this version of the file from others: a strong ETag or a settled
    date (RFC 9110 8.8).
    """
    etag, modified, date = (
        response.headers.get(name) for name in ("ETag", "Last-Modified", "Date")
    )
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
        raise OSError(
            f"{folder}: {size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; "
            "use another --data-dir"
        )


# --- Extract --------------------------------------------------------------------------------------


def list_members(archive: Path) -> list[tarfile.TarInfo]:
    """Read through a tar archive and return every file in it, with its name in plain form.

    Raises ValueError unless the archive is whole and holds nothing but plain files
    <top>/<wnid-Name>/<id><suffix>, each once, and their folders.
    """
    top, suffix = ARCHIVES[archive.name]
    folder_name = re.compile(rf"{top}(/n\d{{8}}-[\w-]{{1,99}})?", re.ASCII)
    file_name = re.compile(
        rf"{top}/n\d{{8}}-[\w-]{{1,99}}/[\w-]{{1,99}}{re.escape(suffix)}", re.ASCII
    )
    length, end = archive.stat().st_size, 0
    members, seen = [], set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                base = name.rpartition("/")[2]
                if (
                    member.isdir()
                    and (name == "." or folder_name.fullmatch(name))
                    and member.size == 0
                ):
                    end = member.offset_data
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(
                        f"{ascii(name)[:90]} is a link, a device or something else that is no "
                        "plain file"
                    )
                if not 0 <= member.size <= MAX_MEMBER:
                    raise ValueError(f"{ascii(name)[:90]} cannot be {member.size} bytes")
                end = member.offset_data + -(-member.size // 512) * 512
                if end > length:
                    raise ValueError(f"it is cut off inside {ascii(name)[:90]}")
                # macOS leaves these when it packs a folder
                if base.startswith("._") or base == ".DS_Store":
                    continue
                if not file_name.fullmatch(name):
                    raise ValueError(
                        f"{ascii(name)[:90]} is not of the form {top}/<wnid-Name>/<id>{suffix}"
                    )
                if name.lower() in seen:  # lower: also on file systems that do not tell case apart
                    raise ValueError(f"{ascii(name)[:90]} is in it twice")
                seen.add(name.lower())
                members.append(member.replace(name=name, deep=False))
        with archive.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(end)
            if file.read(512) != bytes(512):
                raise ValueError("it is cut off or damaged")
    # What tarfile lets through on damaged headers, beside its own errors
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
        MemoryError,
        RecursionError,
        EOFError,
        IndexError,
    ) as error:
        raise ValueError(
            f"{archive} is unsound: {str(error) or 'unreadable header'}; get another copy"
        ) from None
    if not members:
        raise ValueError(f"{archive} is unsound: it holds no {top}; get another copy")
    return members


def extract(archives: dict[str, Path], folder: Path) -> dict:
    """Extract the two archives into `folder`, new and empty; return {"breeds": n, "images": n},
    counted.

    Raises ValueError, before anything is written, where an archive is unsound or a photo lacks its
    annotation.
    """
    members = {name: list_members(path) for name, path in archives.items()}
    keys = {
        name: {m.name.split("/", 1)[1].removesuffix(ARCHIVES[name][1]) for m in found}
        for name, found in members.items()
    }
    unmatched = sorted(keys["images.tar"] ^ keys["annotation.tar"])
    if unmatched:
        raise ValueError(
            f"images.tar ({len(keys['images.tar'])}) and annotation.tar "
            f"({len(keys['annotation.tar'])}) do not belong together: {unmatched[0]} is in one of "
            "them only"
        )
    sizes = [member.size for found in members.values() for member in found]
    need_space(folder, sum(4096 + size for size in sizes))  # 4096: a file's cost beyond its bytes
    for name, path in archives.items():
        with tarfile.open(path, "r:") as tar:
            files = with_progress(members[name], f"extracting {name}", len(members[name]), "files")
            tar.extractall(folder, files, filter=undated)
    return {
        "breeds": len({key.split("/")[0] for key in keys["images.tar"]}),
        "images": len(keys["images.tar"]),
    }


def undated(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Filter members as tarfile's data filter does; a file gets the time at which it is extracted.

    By that time data_selection.py knows which crops are older than their photo.
    """
    return tarfile.data_filter(member, folder).replace(mtime=None, deep=False)
