"""Download and verify the Oxford-IIIT Pet photos, and sort them into a folder for each breed.

Parkhi, Vedaldi, Zisserman and Jawahar, "Cats and Dogs", CVPR 2012; licence CC BY-SA 4.0. These
photos are neither in ImageNet nor in Stanford Dogs, so they measure a model on photos from
elsewhere.
"""

import gzip
import json
import re
import shutil
import tarfile
import zlib
from pathlib import Path

from dog_breeds.console import progress, write_atomically
from dog_breeds.data.archives import MAX_FILE_BYTES, check_free_space, fetch, file_sha256, read_json

PETS_URL = "https://thor.robots.ox.ac.uk/~vgg/data/pets/"
ARCHIVE = "images.tar.gz"
SIZE = 791_918_971  # bytes of the official archive, whose digest follows
SHA256 = "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"
MAX_BYTES = 4 * 2**30  # of all photos together; the official photos have 0.8 GB
PHOTO = re.compile(r"images/([A-Za-z]{1,40}(?:_[A-Za-z]{1,40}){0,5})_(\d{1,5})\.jpg", re.ASCII)
HINT = f"run it again to continue, or name a folder or address that has {ARCHIVE} with --base-url"


def make_pets(data_dir: Path, source: str, keep_archive: bool = False) -> None:
    """Make data/pets/<breed>/<breed>_<number>.jpg from the archive at `source`, if it is missing.

    `source` is a folder, or an address that ends in "/". data/pets appears only when it is
    complete. Raises FileExistsError if data/pets holds something else. Raises ConnectionError,
    FileNotFoundError or ValueError if the archive is unreachable, missing or damaged, and OSError
    if the disk is full.
    """
    folder, partial, store = data_dir / "pets", data_dir / ".pets.partial", data_dir / "archives"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    stamp = read_json(folder / ".complete.json")
    if stamp:
        count = sum(1 for path in folder.glob("*/*.jpg") if path.is_file())
        if count != stamp["photos"]:
            raise FileExistsError(
                f"{folder} has {count} photos instead of {stamp['photos']}; remove the folder and "
                "run this again"
            )
        print(f"{folder}: {count:,} photos of {stamp['breeds']} breeds are already there")
    elif folder.is_symlink() or (folder.exists() and any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} was not made by make_dataset.py; move it away or use another --data-dir"
        )
    else:
        archive = _get_archive(source, store)
        try:
            partial.mkdir(parents=True)
            counts = _extract_photos(archive, partial)
            stamp = json.dumps({"source": source, **counts}) + "\n"
            write_atomically(partial / ".complete.json", stamp)
            partial.replace(folder)  # one step, so that data/pets is never incomplete
        except ValueError:  # the next run must not reuse a damaged download
            if archive.parent == store:
                archive.unlink()
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        print(f"{folder}: {counts['photos']:,} photos of {counts['breeds']} breeds")
    if not keep_archive and read_json(store / f"{ARCHIVE}.json").get("url") == source + ARCHIVE:
        for suffix in ("", ".part", ".json"):
            (store / f"{ARCHIVE}{suffix}").unlink(missing_ok=True)
        if not any(store.iterdir()):
            store.rmdir()


def _get_archive(source: str, store: Path) -> Path:
    """Return the path of the archive. A local archive stays where it is; others are downloaded.

    The official archive is verified by its size and SHA-256.
    """
    if not source.startswith("http"):
        path = Path(source) / ARCHIVE
        if not path.is_file():
            raise FileNotFoundError(f"{source} holds no {ARCHIVE}; {HINT}")
        return path
    path, official = store / ARCHIVE, source == PETS_URL
    if path.exists():
        url = read_json(store / f"{ARCHIVE}.json").get("url")  # the address of an earlier download
        if url == source + ARCHIVE and (not official or file_sha256(path) == SHA256):
            return path
        if not url:
            raise FileExistsError(
                f"{path} was not downloaded by make_dataset.py; move it away, or name its folder "
                "with --base-url"
            )
        path.unlink()
    size, sha256 = (SIZE, SHA256) if official else (None, None)
    fetch(source + ARCHIVE, path, size, sha256, hint=HINT)
    return path


def _extract_photos(archive: Path, folder: Path) -> dict:
    """Write the photos of an archive to a new folder; return {"breeds": n, "photos": n}.

    Photos are regular files named images/<breed>_<number>.jpg. Everything else is ignored. Raises
    ValueError if the archive is damaged or cut off, has no photos, or has impossibly large photos.
    """
    check_free_space(
        folder, archive.stat().st_size
    )  # JPEG files do not become smaller in an archive
    photos, size = set(), 0
    try:
        with tarfile.open(archive, "r:gz") as tar, progress("extracting", None) as show:
            for member in tar:
                match = PHOTO.fullmatch(member.name.removeprefix("./"))
                if not match or not member.isreg():
                    continue
                size += member.size
                if member.size > MAX_FILE_BYTES or size > MAX_BYTES:
                    raise ValueError(f"{member.name} is too large")
                breed, number = match.groups()
                (folder / breed).mkdir(exist_ok=True)
                content = tar.extractfile(member).read()
                (folder / breed / f"{breed}_{number}.jpg").write_bytes(content)
                photos.add((breed, number))
                show(size)
            # tarfile stops before the end of the file, where gzip compares its checksum
            while tar.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{archive} cannot be used: {error}; get another copy") from None
    if not photos:
        raise ValueError(f"{archive} cannot be used: it holds no photos; get another copy")
    return {"breeds": len({breed for breed, _ in photos}), "photos": len(photos)}
