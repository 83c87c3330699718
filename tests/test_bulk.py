"""test.py --folder: every photo gets one row, whatever its name and content are, and however often
the run is killed.
"""

import csv
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from colour_model import COLOURS
from conftest import command, run
from handler_process import family
from odd_images import drawn_image, saved
from PIL import Image
from test_clients import heic_file

from dog_breeds.clients import photo_files, tables
from dog_breeds.serving import facts

ODD_NAMES = [
    "a,b.jpg",
    'quo"te.jpg',
    "line\nbreak.jpg",
    "return\rhere.jpg",
    "Ünïcode/ö.JPEG",
    os.fsdecode(b"not-utf8-\xff.png"),
    "windows.jfif",
]


def classify(folder: Path, table: Path, model: Path) -> subprocess.CompletedProcess:
    return run("test.py", "--folder", folder, "--csv", table, "--model", model)


def rows(table: Path, delimiter: str = ",") -> list[dict]:
    with open(table, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def write_photos(folder: Path, number: int) -> dict[str, str]:
    """Write photos of all colours, in sub-folders of 100. Return the breed of each photo."""
    breeds = {}
    for index in range(number):
        breed = list(COLOURS)[index % len(COLOURS)]
        name = f"{index // 100}/{index}.jpg"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(saved(drawn_image(64, 48, breed), format="JPEG", quality=95))
        breeds[name] = breed
    return breeds


def test_odd_names_and_files(colour_model, tmp_path):
    folder, table = tmp_path / "photos", tmp_path / "out.csv"
    (folder / "Ünïcode").mkdir(parents=True)
    for name in ODD_NAMES:
        (folder / name).write_bytes(saved(drawn_image(), format="PNG"))
    (folder / "text.jpg").write_text("a dog")
    (folder / "empty.png").write_bytes(b"")
    (folder / "large.png").write_bytes(saved(drawn_image(), format="PNG") + bytes(10_000_000))
    heic = heic_file(drawn_image())
    (folder / "photo.heic").write_bytes(heic)
    (folder / "renamed.jpg").write_bytes(heic)
    (folder / "half.heic").write_bytes(heic[: len(heic) // 2])
    drawn_image().save(folder / "photo.avif")
    avif = bytearray((folder / "photo.avif").read_bytes())
    avif[avif.index(b"pitm") + 9] = 7  # number of a missing image: Pillow raises RuntimeError
    (folder / "half.avif").write_bytes(avif)
    drawn_image().save(folder / "scan.TIF")
    drawn_image().save(folder / "scan.jpg", format="TIFF")
    (folder / "camera.HIF").write_bytes(heic)
    # 52 megapixels: more than the service accepts
    Image.new("RGB", (8000, 6500), COLOURS["leonberg"]).save(folder / "telephone.jpg")
    (folder / "notes.txt").write_text("no photo")
    (folder / "folder.jpg").mkdir()
    (folder / "nowhere.jpg").symlink_to("missing")
    os.mkfifo(folder / "pipe.jpg")
    done = classify(folder, table, colour_model)
    assert done.returncode == 0, done.stderr
    errors = {
        "text.jpg": "unsupported_type",
        "empty.png": "unsupported_type",
        "half.heic": "unreadable",
    }
    errors["half.avif"] = "unreadable"
    found = {row["file"]: row["breed"] or row["error"] for row in rows(table)}
    # The table is UTF-8, even if names are not
    known = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in ODD_NAMES]
    assert "not-utf8-\\xff.png" in known
    known += ["large.png", "photo.heic", "renamed.jpg", "photo.avif", "telephone.jpg"]
    known += ["scan.TIF", "scan.jpg", "camera.HIF"]
    assert found == {**dict.fromkeys(known, "leonberg"), **errors}
    assert len(rows(table)) == len(found)
    assert {row["known"] for row in rows(table)} == {"yes", ""}
    assert {row["model"] for row in rows(table)} == {facts.model_digest(colour_model)}
    assert f"{len(known):9,}  leonberg" in done.stdout.splitlines()
    assert done.stdout.splitlines()[0].endswith(": 1 file whose name is not that of a photo (.txt)")
    before = table.read_bytes()
    assert (
        "0 new photos" in classify(folder, table, colour_model).stdout
        and table.read_bytes() == before
    )


def test_no_row_is_lost_or_doubled_by_kills(colour_model, tmp_path):
    folder, table = tmp_path / "photos", tmp_path / "out.csv"
    folder.mkdir()
    breeds = write_photos(folder, 1200)
    rng, sizes = random.Random(0), []
    for _ in range(3):
        argv = command("test.py", "--folder", folder, "--csv", table, "--model", colour_model)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        size = table.stat().st_size if table.exists() else 0
        while (not table.exists() or table.stat().st_size < size + 5000) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open(table, "r+b") as file:  # as if only a part of the last row was written
            file.truncate(table.stat().st_size - rng.randrange(40))
        sizes.append(table.stat().st_size)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert classify(folder, table, colour_model).returncode == 0
    found = rows(table)
    assert len(found) == 1200 and {row["file"]: row["breed"] for row in found} == breeds
    assert [row["file"] for row in found] == list(photo_files.list_photos(folder)), (
        "in the order of list_photos"
    )


@pytest.mark.parametrize("content", [b"name,age\nrex,3\n", b"file,breed\n", b"\x89PNG"])
def test_a_file_that_is_no_table_is_not_changed(colour_model, tmp_path, content):
    (tmp_path / "photos").mkdir()
    (tmp_path / "out.csv").write_bytes(content)
    done = classify(tmp_path / "photos", tmp_path / "out.csv", colour_model)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        "is not a table of this program" in done.stderr
        and (tmp_path / "out.csv").read_bytes() == content
    )


def test_wrong_arguments_give_one_line(colour_model, tmp_path):
    done = classify(tmp_path / "missing", tmp_path / "out.csv", colour_model)
    assert (
        done.returncode == 1
        and "missing is not a folder" in done.stderr
        and not (tmp_path / "out.csv").exists()
    )
    done = run("test.py", "--folder", ".")
    assert done.returncode == 2 and "use --folder and --csv together" in done.stderr


def test_a_table_of_another_folder_is_refused(colour_model, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_photos(tmp_path / name, 3)
    (tmp_path / "b" / "0").rename(tmp_path / "b" / "others")
    assert classify(tmp_path / "a", tmp_path / "out.csv", colour_model).returncode == 0
    before = (tmp_path / "out.csv").read_bytes()
    done = classify(tmp_path / "b", tmp_path / "out.csv", colour_model)
    assert done.returncode == 1
    assert "is about another folder" in done.stderr and "lacks 3 of its 3 photos" in done.stderr
    assert (tmp_path / "out.csv").read_bytes() == before


def test_after_the_death_of_a_worker_the_next_run_continues(colour_model, tmp_path):
    (tmp_path / "photos").mkdir()
    write_photos(tmp_path / "photos", 1000)
    argv = command(
        "test.py",
        "--folder",
        tmp_path / "photos",
        "--csv",
        tmp_path / "out.csv",
        "--model",
        colour_model,
    )
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        table = tmp_path / "out.csv"
        while (not table.exists() or table.stat().st_size < 1000) and process.poll() is None:
            time.sleep(0.01)
        *_, worker = family(process.pid)
        os.kill(worker, signal.SIGKILL)
        message = process.communicate(timeout=300)[1].splitlines()[-1]
    assert process.returncode == 1
    assert (
        message
        == "test.py: a process has died, perhaps out of memory; run the same command to continue"
    )
    assert 0 < len(rows(tmp_path / "out.csv")) < 1000
    assert classify(tmp_path / "photos", tmp_path / "out.csv", colour_model).returncode == 0
    assert len({row["file"] for row in rows(tmp_path / "out.csv")}) == 1000


def test_rows_of_removed_photos_stay_and_new_photos_get_rows(colour_model, tmp_path):
    folder, table = tmp_path / "photos", tmp_path / "out.csv"
    folder.mkdir()
    write_photos(folder, 5)
    assert classify(folder, table, colour_model).returncode == 0
    before = table.read_bytes()
    (folder / "0/1.jpg").rename(folder / "new.jpg")
    (folder / "0/2.jpg").unlink()
    done = classify(folder, table, colour_model)
    assert done.returncode == 0, done.stderr
    assert "2 rows are about photos that are no longer in" in done.stdout
    assert "1 new photos" in done.stdout and table.read_bytes().startswith(before)
    assert [row["file"] for row in rows(table)][-1] == "new.jpg" and len(rows(table)) == 6


def test_rows_of_two_models_are_never_mixed(colour_model, explaining_model, tmp_path):
    folder, table = tmp_path / "photos", tmp_path / "out.csv"
    folder.mkdir()
    write_photos(folder, 2)
    assert classify(folder, table, colour_model).returncode == 0
    before = table.read_bytes()
    done = classify(folder, table, explaining_model)
    digests = [facts.model_digest(model) for model in (colour_model, explaining_model)]
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert all(digest in done.stderr for digest in digests) and table.read_bytes() == before


@pytest.mark.parametrize("path", ["new/folder/out.csv", "photos", "file/out.csv"])
def test_the_folder_of_the_table_is_made_if_possible(colour_model, photo, tmp_path, path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").write_text("no folder")
    done = classify(tmp_path / "photos", tmp_path / path, colour_model)
    if path == "new/folder/out.csv":
        assert done.returncode == 0, done.stderr
        assert (tmp_path / path).read_bytes() == tables.encode_head()
    else:
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "Errno" not in done.stderr and str(tmp_path / path).split("/out")[0] in done.stderr
