"""make_dataset.py --pets with bad servers, bad archives and an unreachable host."""

import io
import random
import tarfile

import pytest
import requests
from conftest import exit_message
from flaky_server import FlakyServer
from hostile_archives import member

import make_dataset
from dog_breeds.data import archives, pets

PHOTOS = {
    "american_bulldog": ("images/american_bulldog_1.jpg", "images/american_bulldog_20.jpg"),
    "Maine_Coon": ("images/Maine_Coon_7.jpg",),
}


def packed(*extra, seed=0):
    """Return an archive like the official one, with further members."""
    rng, buffer = random.Random(seed), io.BytesIO()
    names = [name for group in PHOTOS.values() for name in group]
    members = [member("images", file_type=tarfile.DIRTYPE, content=b"")]
    members += [member(name, rng.randbytes(40_000)) for name in names]
    members.append(member("images/Maine_Coon_7.mat", b"no photo"))
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in [*members, *extra]:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(archives, "TIMEOUT", (30, 2))
    monkeypatch.setattr(archives, "RETRY_DELAYS", (0.01, 0.02, 0.03))


@pytest.fixture
def make(monkeypatch, tmp_path):
    """A function that runs --pets and returns its error message, or None if it succeeds."""

    def run(*arguments):
        arguments = ("--pets", "--data-dir", tmp_path / "data", *arguments)
        return exit_message(monkeypatch, make_dataset, *arguments)

    return run


def files_made(tmp_path):
    """Return the files in the data folder, sorted, without the lock."""
    files = (path for path in (tmp_path / "data").rglob("*") if path.is_file())
    names = (path.relative_to(tmp_path / "data").as_posix() for path in files)
    return sorted(name for name in names if name != ".lock")


EXPECTED = sorted(
    ["pets/.complete.json"]
    + [
        f"pets/{breed}/{name.removeprefix('images/')}"
        for breed, names in PHOTOS.items()
        for name in names
    ]
)


def test_each_breed_gets_a_folder_and_a_second_run_needs_no_server(make, tmp_path, capsys):
    faults = ["drop", "cut", "503", "cut", "ignore range, cut"]
    content = packed()
    with FlakyServer([{"images.tar.gz": content}], faults, random.Random(1)) as server:
        assert make("--base-url", server.url) is None
        asked = len(server.log)
        assert any(ranged for _, ranged, _, _ in server.log), "a broken download continues"
        assert make("--base-url", server.url) is None
        assert len(server.log) == asked
    assert "3 photos of 2 breeds are already there" in capsys.readouterr().out
    assert files_made(tmp_path) == EXPECTED
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for breed, names in PHOTOS.items():
            for name in names:
                photo = tmp_path / "data/pets" / breed / name.removeprefix("images/")
                assert photo.read_bytes() == tar.extractfile(name).read()


def test_the_official_archive_is_verified(make, tmp_path, monkeypatch):
    content = packed()
    with FlakyServer([{"images.tar.gz": content}]) as server:
        monkeypatch.setattr(make_dataset, "PETS_URL", server.url)
        monkeypatch.setattr(pets, "PETS_URL", server.url)
        assert "offers" in make(), "another size"
        monkeypatch.setattr(pets, "SIZE", len(content))
        assert "is not the expected file: its SHA-256 differs" in make()
        assert files_made(tmp_path) == ["archives/images.tar.gz.json"]
        path = tmp_path / "right"
        path.write_bytes(content)
        monkeypatch.setattr(pets, "SHA256", archives.file_sha256(path))
        assert make("--keep-archives") is None
    assert {"archives/images.tar.gz", *EXPECTED} <= {*files_made(tmp_path)}


def test_one_line_if_the_host_cannot_be_reached(make, tmp_path, monkeypatch):
    def unreachable(*args, **options):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", unreachable)
    line = make()
    assert "thor.robots.ox.ac.uk cannot be reached (4 tries without progress); run it again" in line
    assert "--base-url" in line and files_made(tmp_path) == []


def test_damaged_archives_leave_nothing_behind(make, tmp_path):
    whole = packed()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w:gz").close()
    for content in (whole[: len(whole) // 2], bytes(damaged), empty.getvalue(), b"<html>"):
        with FlakyServer([{"images.tar.gz": content}]) as server:
            assert "images.tar.gz cannot be used: " in make("--base-url", server.url)
            assert files_made(tmp_path) in ([], ["archives/images.tar.gz.json"])


def test_members_that_are_no_photos_of_a_breed_are_ignored(make, tmp_path):
    others = [
        member("../../outside_1.jpg"),
        member("/images/Birman_1.jpg"),
        member("images/../Birman_2.jpg"),
        member("images/deeper/Birman_3.jpg"),
        member("images/Birman_4.jpg", b"", tarfile.SYMTYPE, linkname="/etc/hostname"),
        member("images/.Birman_5.jpg"),
        member("images/Maine_Coon_7.jpg", b"the same name again"),
    ]
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/images.tar.gz").write_bytes(packed(*others))
    before = sorted(tmp_path.rglob("*"))
    assert make("--base-url", tmp_path / "mirror") is None
    assert files_made(tmp_path) == EXPECTED
    new = {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - {*before}}
    assert new == {"data"}
    assert make("--base-url", tmp_path / "mirror") is None, "a second run finds all photos"


def test_a_folder_of_the_user_and_missing_photos_are_refused(make, tmp_path):
    (tmp_path / "data/pets").mkdir(parents=True)
    (tmp_path / "data/pets/mine.txt").write_text("mine")
    assert "was not made by make_dataset.py" in make()
    (tmp_path / "data/pets/mine.txt").unlink()
    (tmp_path / "mirror").mkdir()
    assert "holds no images.tar.gz" in make("--base-url", tmp_path / "mirror")
    (tmp_path / "mirror/images.tar.gz").write_bytes(packed())
    assert make("--base-url", tmp_path / "mirror") is None
    (tmp_path / "data/pets/Maine_Coon/Maine_Coon_7.jpg").unlink()
    assert "has 2 photos instead of 3" in make("--base-url", tmp_path / "mirror")
