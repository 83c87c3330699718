"""Download, verify and extract the two archives of the Stanford Dogs dataset.

The server may be unreliable, and the archives come from a stranger. A download therefore continues
after each interruption, and nothing is extracted before the whole archive is checked.
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

ARCHIVES = {  # top folder, suffix of the files; the smaller archive is fetched first
    "annotation.tar": ("Annotation", ""),
    "images.tar": ("Images", ".jpg"),
}
# Seconds to connect, and seconds without a byte after which a connection counts as broken
TIMEOUT = 10, 20
# Seconds before each further try. After real progress, all tries are available again.
RETRY_DELAYS = (1, 2, 4, 8)
MAX_FILE_BYTES = 64 * 2**20  # of one file in an archive; the largest real file is far smaller
BLOCK = 512  # bytes; a tar archive consists of blocks of this size
SOURCE_HINT = (
    "name a folder or address that has images.tar and annotation.tar with --base-url (or "
    "STANFORD_DOGS_MIRROR), or draw the demo set with --demo"
)


# --- Fetch ----------------------------------------------------------------------------------------


def fetch(
    url: str,
    path: Path,
    size: int | None = None,
    sha256: str | None = None,
    hint: str = SOURCE_HINT,
) -> None:
    """Download `url` to `path`. Continue the download of an earlier call if there is one.

    `path` appears only when the file is complete. `size` (bytes) and `sha256` (hex digits) are
    checked if they are given. Raises FileNotFoundError if the server refuses the file,
    ConnectionError if all tries failed, and ValueError if the file has another SHA-256. The
    messages end with `hint`, which says what the user can do.
    """
    partial, note = Path(f"{path}.part"), Path(f"{path}.json")
    delays, most_received, restarted = list(RETRY_DELAYS), 0, False
    while True:
        try:
            _continue_download(url, partial, note, size, sha256)
            if sha256 is None or file_sha256(partial) == sha256:
                partial.replace(path)
                return
            partial.unlink()
            if restarted:
                raise ValueError(f"{url} is not the expected file: its SHA-256 differs; {hint}")
            # A continued file may consist of parts of two versions, so start again at byte 0 once
            restarted = True
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 0
            # Another try may help after a timeout (408), a bad range (416) or a rate limit (429),
            # but not after any other refusal
            if 400 <= status < 500 and status not in (408, 416, 429):
                raise FileNotFoundError(f"{url}: {_failure_text(error)}; {hint}") from None
            # requests raises errors that are also ValueErrors for a malformed address
            if isinstance(error, ValueError | requests.TooManyRedirects):
                raise ConnectionError(f"{url}: {_failure_text(error)}; {hint}") from None
            received = partial.stat().st_size if partial.exists() else 0
            # Progress is real if it exceeds 1 % of the file; otherwise a server that breaks every
            # connection after a few bytes would keep this loop busy forever
            if received > most_received + 1000 + read_json(note).get("size", 0) // 100:
                delays, most_received = list(RETRY_DELAYS), received
            failure = f"{urlsplit(url).hostname} {_failure_text(error)}"
            if not delays:
                raise ConnectionError(
                    f"{failure} ({len(RETRY_DELAYS) + 1} tries without progress); {hint}"
                ) from None
            print(f"{failure}; next try in {delays[0]} s", flush=True)
            time.sleep(delays.pop(0))


def _continue_download(
    url: str, partial: Path, note: Path, size: int | None, sha256: str | None
) -> None:
    """Complete the file `partial` with one request.

    `note` is a JSON file that says which version of which address `partial` belongs to. Raises
    RequestException if the request fails; `partial` then keeps what was received.
    """
    known = read_json(note)
    received = partial.stat().st_size if partial.exists() else 0
    # Continue only if a mixture of two versions would be noticed: by the server, which compares
    # the validator, or at the end, by the SHA-256
    if known.get("url") != url or not known.get("size") or not (sha256 or known.get("validator")):
        received = 0
    if received and received == known["size"]:
        return
    # Without "identity" the server could compress the file, and byte positions would not match
    headers = {"User-Agent": "dog-breeds/1.0", "Accept-Encoding": "identity"}
    if received:
        headers["Range"] = f"bytes={received}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    with (
        open_session(url) as session,
        session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response,
    ):
        if response.status_code == 416:  # the file on the server is shorter than `partial`
            partial.unlink(missing_ok=True)
        response.raise_for_status()
        if received and response.status_code == 206:
            expected = f"bytes {received}-{known['size'] - 1}/{known['size']}"
            if (
                response.headers.get("Content-Range") != expected
                or strong_validator(response) != known["validator"]
            ):
                partial.unlink()
                raise requests.RequestException("now offers another version of the file")
            total = known["size"]
        elif response.status_code == 200:  # the whole file, even if only the rest was requested
            length = response.headers.get("Content-Length", "")
            received, total = 0, int(length) if length.isdecimal() else size
            if size and total != size:
                raise requests.RequestException(f"offers {total} bytes instead of {size}")
            partial.parent.mkdir(parents=True, exist_ok=True)
            # Empty the file before the note is written, because the note must never describe
            # bytes of an older version
            partial.write_bytes(b"")
            facts = {"url": url, "size": total or 0, "validator": strong_validator(response)}
            write_atomically(note, json.dumps(facts))
        else:
            raise requests.RequestException(f"gives the unexpected answer {response.status_code}")
        if total:  # the extracted files need as much space again
            check_free_space(partial.parent, 2 * total - received)
        with (
            progress(partial.stem, total, start=received) as show,
            partial.open("ab", buffering=0) as file,
        ):
            # Chunks are small, because a broken connection loses up to one chunk
            for chunk in response.iter_content(1 << 14):
                file.write(chunk)
                received += len(chunk)
                show(received)
    if total and received != total:
        if received > total:
            partial.unlink()
        raise requests.RequestException(f"sent {received} bytes instead of {total}")


def strong_validator(response: requests.Response) -> str | None:
    """Return what identifies this version of the file: a strong ETag or Last-Modified date.

    A date is strong if the response is at least one second later: within that second the file could
    have changed again (RFC 9110, section 8.8). Returns None if the response has neither.
    """
    etag, modified, date = (
        response.headers.get(name) for name in ("ETag", "Last-Modified", "Date")
    )
    if etag and not etag.startswith("W/"):  # W/ marks a weak ETag
        return etag
    with contextlib.suppress(ValueError, TypeError):  # a date is missing or malformed
        if parsedate_to_datetime(date) - parsedate_to_datetime(modified) >= timedelta(seconds=1):
            return modified
    return None


def _failure_text(error: requests.RequestException) -> str:
    """Return a predicate for the server's name, such as "cannot be reached"."""
    # str(error) of a failed connection holds addresses and names of Python objects
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


def read_json(path: Path) -> dict:
    """Return the JSON object in a file, or {} if the file is missing or malformed."""
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


def check_free_space(folder: Path, size: int) -> None:
    """Raise OSError unless the disk of a folder has `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{folder} needs {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "choose another --data-dir"
        )


# --- Extract --------------------------------------------------------------------------------------


def _list_members(archive: Path) -> list[tarfile.TarInfo]:
    """Check a whole tar archive and return all files in it, without "./" before their names.

    Raises ValueError unless the archive is complete and contains only regular files named
    <top>/<wnid-Name>/<id><suffix>, each once, and their folders. Files that macOS adds are left
    out.
    """
    top, suffix = ARCHIVES[archive.name]
    folder_name = re.compile(rf"{top}(/n\d{{8}}-[\w-]{{1,99}})?", re.ASCII)
    file_name = re.compile(
        rf"{top}/n\d{{8}}-[\w-]{{1,99}}/[\w-]{{1,99}}{re.escape(suffix)}", re.ASCII
    )
    length, end = archive.stat().st_size, 0  # end: the byte after the last member
    members, names = [], set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                shown = ascii(name)[:90]  # a hostile name may be long or hold terminal codes
                base = name.rpartition("/")[2]
                if (
                    member.isdir()
                    and (name == "." or folder_name.fullmatch(name))
                    and member.size == 0
                ):
                    end = member.offset_data
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{shown} is not a regular file, but a link, device or other")
                if not 0 <= member.size <= MAX_FILE_BYTES:
                    raise ValueError(f"{shown} has the impossible size of {member.size} bytes")
                # The content fills whole blocks
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if end > length:
                    raise ValueError(f"it ends inside {shown}")
                # macOS adds these files when it packs a folder
                if base.startswith("._") or base == ".DS_Store":
                    continue
                if not file_name.fullmatch(name):
                    raise ValueError(f"{shown} is not of the form {top}/<wnid-Name>/<id>{suffix}")
                # Some file systems ignore case, so two names must differ in more than case
                if name.lower() in names:
                    raise ValueError(f"it lists {shown} twice")
                names.add(name.lower())
                members.append(member.replace(name=name, deep=False))
        # tarfile stops at a damaged header as if it were the end. The real end is a zero block.
        with archive.open("rb") as file:
            file.seek(end)
            if file.read(BLOCK) != bytes(BLOCK):
                raise ValueError("it is cut off or damaged")
    except (
        tarfile.TarError,
        ValueError,
        # tarfile also raises these errors for some damaged headers
        OverflowError,
        MemoryError,
        RecursionError,
        EOFError,
        IndexError,
    ) as error:
        raise ValueError(
            f"{archive} cannot be used: {str(error) or 'unreadable header'}; get another copy"
        ) from None
    if not members:
        raise ValueError(f"{archive} cannot be used: it holds no {top}; get another copy")
    return members


def extract_archives(archives: dict[str, Path], folder: Path) -> dict:
    """Extract the two archives into a new, empty folder; return {"breeds": n, "images": n}.

    Raises ValueError before it writes anything, if an archive cannot be used or a photo has no
    annotation.
    """
    members = {name: _list_members(path) for name, path in archives.items()}
    # <wnid-Name>/<id>, which is the same for a photo and its annotation
    keys = {
        name: {m.name.split("/", 1)[1].removesuffix(ARCHIVES[name][1]) for m in listed}
        for name, listed in members.items()
    }
    unmatched = sorted(keys["images.tar"] ^ keys["annotation.tar"])
    if unmatched:
        raise ValueError(
            f"images.tar ({len(keys['images.tar'])} files) and annotation.tar "
            f"({len(keys['annotation.tar'])} files) do not belong together: only one of them has "
            f"{unmatched[0]}"
        )
    sizes = [member.size for listed in members.values() for member in listed]
    # A file takes up to one disk block, usually 4096 bytes, more than its content
    check_free_space(folder, sum(4096 + size for size in sizes))
    for name, path in archives.items():
        with tarfile.open(path, "r:") as tar:
            files = with_progress(members[name], f"extracting {name}", len(members[name]), "files")
            tar.extractall(folder, files, filter=_data_filter_without_time)
    return {
        "breeds": len({key.split("/")[0] for key in keys["images.tar"]}),
        "images": len(keys["images.tar"]),
    }


def _data_filter_without_time(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Apply tarfile's data filter, and give the file the time of its extraction.

    data_selection.py compares this time with that of the crop, to find crops that are out of date.
    """
    return tarfile.data_filter(member, folder).replace(mtime=None, deep=False)
