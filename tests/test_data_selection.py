"""Crops have the right pixels; broken files, killed runs and wrong arguments are handled."""

import csv
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TEN, THOROUGH, accept_ctrl_c, command, run
from handler_process import family, run_python
from odd_images import STORED, UNWRITABLE_EXIF, chunk, orientation_exif, png_file
from PIL import Image, ImageChops
from planted import FOLDER, annotation, digests, encode, plant, smooth_image

from data_selection import crop_breeds, crop_dogs
from dog_breeds import recipe
from dog_breeds.data.dataset import (
    annotation_dir,
    choose_breeds,
    count_images,
    images_dir,
    list_images,
    processed_dir,
    top_breeds,
)

SCRIPT = "data_selection.py"


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory) -> Path:
    """A data folder with the twelve real breeds, without crops."""
    data_dir = tmp_path_factory.mktemp("real")
    (data_dir / "raw").symlink_to(real_data / "raw")
    return data_dir


def skipped(data_dir: Path) -> dict[str, str]:
    """Return the reason for each file in skipped.csv."""
    with open(processed_dir(data_dir) / "skipped.csv", newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def select(data_dir: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run data_selection.py."""
    return run(SCRIPT, "--data-dir", data_dir, *arguments, **options)


# --- The real photos ------------------------------------------------------------------------------


def test_all_real_photos_are_cropped_and_a_second_run_does_nothing(real):
    first = select(real)
    assert first.returncode == 0, first.stderr
    assert "12 breeds, 2,535 photos cropped, 0 were cropped before, 0 skipped" in first.stdout
    crops = list(processed_dir(real).glob("*/*.jpg"))
    assert len(crops) == 2535
    assert skipped(real) == {}
    assert not list(processed_dir(real).rglob(".part-*"))
    with Image.open(crops[0]) as crop:
        assert (crop.format, crop.mode, crop.size) == ("JPEG", "RGB", (recipe.SIZE, recipe.SIZE))

    before = {path: path.stat().st_mtime_ns for path in crops}
    second = select(real)
    assert "0 photos cropped, 2,535 were cropped before, 0 skipped" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in crops} == before


def test_real_crops_equal_crops_made_by_hand(real):
    photos = sorted(images_dir(real).glob("*/*.jpg"))[:: 1 if THOROUGH else 8]
    for photo in photos:
        xml = annotation_dir(real) / photo.parent.name / photo.stem
        sides = re.findall(r"<(?:xmin|ymin|xmax|ymax)>(\d+)<", xml.read_text())
        by_hand = (
            Image.open(photo)
            .crop([int(side) for side in sides[:4]])
            .resize((299, 299), Image.Resampling.BILINEAR)
        )
        [crop] = crop_dogs(photo, xml)
        assert crop.mode == by_hand.mode == "RGB"
        assert ImageChops.difference(crop, by_hand).getbbox() is None, photo


def test_ten_most_numerous_real_breeds(real):
    assert top_breeds(real) == choose_breeds(real, ["top10"]) == sorted(TEN)
    counts = count_images(real)
    assert list(counts.items())[:10] == list(TEN.items())  # ties in alphabetical order
    assert sum(counts.values()) == 2535


# --- Pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_the_box_is_cut_out_and_resized_to_rgb(tmp_path, mode):
    """test_pixels.py tests every mode; this test adds the box."""
    photo, xml = plant(
        tmp_path, "a_1", encode(smooth_image().convert(mode), format="PNG"), annotation()
    )
    [crop] = crop_dogs(photo, xml)
    expected = smooth_image().convert(mode).convert("RGB").crop((10, 20, 70, 80))
    expected = expected.resize((299, 299), Image.Resampling.BILINEAR)
    assert crop.mode == "RGB" and ImageChops.difference(crop, expected).getbbox() is None


# The transposition that turns a stored image upright, by EXIF orientation
UPRIGHT = STORED | {6: STORED[8], 8: STORED[6]}


# A size that fits both frames (orientations 1 to 4) counts as that of the stored image
@pytest.mark.parametrize(
    ("frame", "orientation"),
    [("stored", number) for number in range(1, 9)]
    + [("upright", number) for number in (5, 6, 7, 8)],
)
def test_box_and_pixels_agree_whatever_the_exif_rotation(tmp_path, frame, orientation):
    def upright(image):
        return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image

    stored, box = smooth_image(), (10, 20, 70, 85)
    described = stored if frame == "stored" else upright(stored)
    expected = upright(stored.crop(box)) if frame == "stored" else described.crop(box)
    expected = expected.resize((299, 299), Image.Resampling.BILINEAR)
    for options, allowed in (({"format": "PNG"}, 0), ({"quality": 100, "subsampling": 0}, 8)):
        content = encode(stored, exif=orientation_exif(orientation), **options)
        [crop] = crop_dogs(*plant(tmp_path, "a_1", content, annotation(described.size, [box])))
        assert np.abs(np.asarray(crop, int) - np.asarray(expected, int)).max() <= allowed


@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_exif_that_pillow_cannot_write_turns_a_photo_once(tmp_path, frame):
    stored = smooth_image()
    upright = stored.transpose(UPRIGHT[6])
    content = encode(stored, exif=UNWRITABLE_EXIF, quality=100, subsampling=0)
    size = stored.size if frame == "stored" else upright.size
    [crop] = crop_dogs(*plant(tmp_path, "a_1", content, annotation(size, [(0, 0, *size)])))
    expected = upright.resize((299, 299), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(crop, int) - np.asarray(expected, int)).max() <= 8


def test_saved_crops_lose_nothing_visible(tmp_path):
    noise = np.random.default_rng(33).integers(0, 256, (37, 37, 3), dtype=np.uint8)
    # Colours change every 8 pixels
    coarse = Image.fromarray(noise).resize((299, 299), Image.Resampling.BICUBIC)
    photo, xml = plant(
        tmp_path, "a_1", encode(coarse, format="PNG"), annotation((299, 299), [(0, 0, 299, 299)])
    )
    crop_breeds(tmp_path, ["pug"])
    with Image.open(processed_dir(tmp_path) / "pug" / "a_1.jpg") as saved:
        error = np.asarray(saved, float) - np.asarray(crop_dogs(photo, xml)[0], float)
    # Decibels; it would be 40 at quality 90, and 37 with colour subsampling
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 42


# --- Boxes and annotations ------------------------------------------------------------------------


def test_boxes_beyond_the_photo_are_clipped(tmp_path):
    xml = annotation(boxes=[(-20, 40, 300, 1000)])
    [crop] = crop_dogs(*plant(tmp_path, "a_1", encode(smooth_image(), format="PNG"), xml))
    expected = smooth_image().crop((0, 40, 120, 90)).resize((299, 299), Image.Resampling.BILINEAR)
    assert ImageChops.difference(crop, expected).getbbox() is None


def test_size_of_zero_means_not_stated(tmp_path):
    photo, xml = plant(tmp_path, "a_1", encode(smooth_image()), annotation((0, 0)))
    assert len(crop_dogs(photo, xml)) == 1


ENTITY = '<!DOCTYPE x [<!ENTITY w "120">]>'
BROKEN_XML = {
    "empty": b"",
    "cut off": annotation()[:-20],
    "not XML": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "no object": annotation(boxes=[]),
    "no size": annotation().replace(b"width", b"wide"),
    "size in words": annotation(("wide", "high")),
    "infinite size": annotation(("inf", "1e999")),
    "other size": annotation((121, 90)),
    "turned size": annotation((90, 120)),
    "empty box": annotation(boxes=[(10, 10, 10, 50)]),
    "inverted box": annotation(boxes=[(70, 80, 10, 20)]),
    "box outside": annotation(boxes=[(500, 10, 600, 50)]),
    "box in words": annotation(boxes=[("left", "top", "right", "bottom")]),
    "half a box": annotation().replace(b"<ymax>80</ymax>", b""),
    "huge number": annotation(boxes=[(10, 10, "9" * 5000, 50)]).replace(
        b"<xmin>10", b"<xmin>" + b"9" * 5000
    ),
    "entity": ENTITY.encode() + annotation(("&w;", 90)),
    "entity in UTF-16": (ENTITY + annotation(("&w;", 90)).decode()).encode("utf-16"),
    "outer definitions": b'<!DOCTYPE x SYSTEM "missing.dtd">' + annotation(),
    "undefined entity": annotation().replace(b"dog", b"&e;"),
    "megabytes": annotation() + b" " * 3_000_000,
    "deep": b"<a>" * 200,
}


BAD_BOXES = {
    "empty box",
    "inverted box",
    "box outside",
    "box in words",
    "half a box",
    "huge number",
}


@pytest.mark.parametrize("fault", BROKEN_XML)
def test_a_broken_annotation_is_named_in_a_short_time(tmp_path, fault):
    photo, xml = plant(tmp_path, "bad_1", encode(smooth_image()), BROKEN_XML[fault])
    start = time.process_time()  # CPU time, which does not depend on other processes
    if fault in BAD_BOXES:
        assert crop_dogs(photo, xml) == [None]
    else:
        with pytest.raises(ValueError, match=re.escape(str(xml))):
            crop_dogs(photo, xml)
    assert time.process_time() - start < 5


# --- Broken files among good ones -----------------------------------------------------------------


HUGE = png_file((10_000, 10_000, 1, 0, 0, 0, 0), chunk(b"IDAT", b""))  # announces 100 megapixels


def break_image(content: bytes, fault: int, rng: random.Random) -> bytes:
    """Damage an image so that it cannot be decoded in full."""
    cut = rng.randrange(2, len(content) - 2)
    return [
        b"",
        content[:cut],
        content[: len(content) - 2],  # the end marker is missing
        content[:cut] + bytes(len(content) - cut),  # an unfinished download, filled with zeros
        rng.randbytes(len(content)),
        b"<html><body>404 Not Found</body></html>",
        b"\xff\xd8\xff" + rng.randbytes(200),
        encode(smooth_image(), format="PNG")[: cut // 2],
        encode(smooth_image(), format="GIF")[:40],
        HUGE,
    ][fault % 10]


def test_fifty_broken_photos_and_fifty_broken_annotations_among_good_ones(tmp_path):
    rng = random.Random(33)
    good = {f"good_{number}" for number in range(100)}
    for number, stem in enumerate(sorted(good)):
        plant(tmp_path, stem, encode(smooth_image(seed=number)), annotation())
    bad = set()
    for number in range(50):
        huge = number % 10 == 9
        xml = annotation((10_000, 10_000)) if huge else annotation()
        plant(
            tmp_path,
            f"photo_{number}",
            break_image(encode(smooth_image(seed=number)), number, rng),
            xml,
        )
        broken = list(BROKEN_XML.values())
        plant(
            tmp_path,
            f"xml_{number}",
            encode(smooth_image(seed=number)),
            broken[number % len(broken)],
        )
        bad |= {f"Images/{FOLDER}/photo_{number}.jpg", f"Images/{FOLDER}/xml_{number}.jpg"}
    plant(tmp_path, "unpaired_1", encode(smooth_image()), None)
    plant(tmp_path, "unpaired_2", None, annotation())
    bad |= {f"Images/{FOLDER}/unpaired_1.jpg", f"Annotation/{FOLDER}/unpaired_2"}
    before = digests(tmp_path / "raw")

    first = select(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "Traceback" not in first.stderr
    assert {path.stem for path in processed_dir(tmp_path).glob("pug/*.jpg")} == good
    assert set(skipped(tmp_path)) == bad
    assert all(skipped(tmp_path).values())
    assert "decompression bomb" in skipped(tmp_path)[f"Images/{FOLDER}/photo_9.jpg"]
    assert "100 photos cropped, 0 were cropped before, 102 skipped" in first.stdout
    assert "and 92 more, see" in first.stdout
    assert digests(tmp_path / "raw") == before
    assert not list(processed_dir(tmp_path).rglob(".part-*"))

    second = select(tmp_path)
    assert "0 photos cropped, 100 were cropped before, 102 skipped" in second.stdout
    assert set(skipped(tmp_path)) == bad

    # The next run crops a repaired photo and no longer lists it
    plant(tmp_path, "photo_0", encode(smooth_image()), annotation())
    assert crop_breeds(tmp_path, ["pug"])["done"] == 1
    assert set(skipped(tmp_path)) == bad - {f"Images/{FOLDER}/photo_0.jpg"}


def test_skipped_csv_keeps_the_failures_of_other_breeds(tmp_path):
    plant(tmp_path, "a_1", b"", annotation(), "n02108089-boxer")
    plant(tmp_path, "b_1", b"", annotation(), FOLDER)
    crop_breeds(tmp_path, ["boxer"])
    crop_breeds(tmp_path, ["pug"])
    assert set(skipped(tmp_path)) == {"Images/n02108089-boxer/a_1.jpg", f"Images/{FOLDER}/b_1.jpg"}
    plant(tmp_path, "a_1", encode(smooth_image()), annotation(), "n02108089-boxer")
    crop_breeds(tmp_path, ["boxer"])
    assert set(skipped(tmp_path)) == {f"Images/{FOLDER}/b_1.jpg"}


def test_crops_of_another_size_have_a_folder_of_their_own(tmp_path, monkeypatch):
    plant(tmp_path, "a_1", encode(smooth_image()), annotation())
    assert crop_breeds(tmp_path, ["pug"])["done"] == 1
    first = digests(processed_dir(tmp_path))
    monkeypatch.setattr(recipe, "SIZE", 150)
    for size, done in ((None, 1), (150, 0), (75, 1), (299, 0)):
        assert crop_breeds(tmp_path, ["pug"], size=size)["done"] == done
    for folder, size in (("processed", 299), ("processed_150", 150), ("processed_75", 75)):
        with Image.open(tmp_path / folder / "pug" / "a_1.jpg") as crop:
            assert crop.size == (size, size)
    assert digests(tmp_path / "processed") == first


# --- Several boxes --------------------------------------------------------------------------------


def test_each_box_gets_a_crop_and_a_bad_box_does_not_stop_the_others(tmp_path):
    boxes = [(10, 20, 70, 80), (50, 50, 50, 60), (0, 0, 40, 40)]
    photo, xml = plant(tmp_path, "n02110958_7", encode(smooth_image()), annotation(boxes=boxes))
    plant(tmp_path, "n02110958_8", encode(smooth_image()), annotation())
    assert crop_breeds(tmp_path, ["pug"]) == {
        "done": 2,
        "skipped_existing": 0,
        "failed": [],
        "folder": processed_dir(tmp_path),
    }
    first = digests(processed_dir(tmp_path))

    summary = crop_breeds(tmp_path, ["pug"], objects="all")
    file = f"Images/{FOLDER}/n02110958_7.jpg"
    assert summary["failed"] == [
        (file, "box 2 is empty, inverted, outside the photo or not readable")
    ]
    assert summary["skipped_existing"] == 1
    crops = {path.stem for path in processed_dir(tmp_path).glob("pug/*.jpg")}
    assert crops == {"n02110958_7", "n02110958_7_3", "n02110958_8"}
    assert (
        digests(processed_dir(tmp_path)).items()
        >= {name: first[name] for name in first if "jpg" in name}.items()
    )
    with Image.open(processed_dir(tmp_path) / "pug" / "n02110958_7_3.jpg") as third:
        error = np.asarray(third, float) - np.asarray(crop_dogs(photo, xml, "all")[2], float)
    assert np.abs(error).mean() < 3


# --- Killed and interrupted runs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A data folder with 600 photos of 3 breeds, which take one or two seconds."""
    data_dir = tmp_path_factory.mktemp("many")
    photos = [encode(smooth_image(500, 375, seed)) for seed in range(10)]
    for number in range(600):
        plant(
            data_dir,
            f"n_{number}",
            photos[number % 10],
            annotation((500, 375)),
            f"n{number % 3:08}-breed_{number % 3}",
        )
    return data_dir


def copy_of(data_dir: Path, target: Path) -> Path:
    """Make a data folder that shares data/raw with another one."""
    target.mkdir()
    (target / "raw").symlink_to(data_dir / "raw")
    return target


def age_temporary_files(data_dir: Path) -> None:
    """Make temporary files so old that no running process can be writing them."""
    for temporary in data_dir.rglob(".part-*"):
        os.utime(temporary, (0, 0))


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killed_run_leaves_no_half_crop_and_no_process_and_is_continued(many, tmp_path):
    whole = copy_of(many, tmp_path / "whole")
    assert select(whole).returncode == 0
    expected = digests(processed_dir(whole))
    assert len(expected) == 601
    rng, moments = random.Random(33), 30 if THOROUGH else 4
    for number in range(moments):
        data_dir = copy_of(many, tmp_path / f"killed_{number}")
        arguments = command(SCRIPT, "--data-dir", data_dir)
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        crops, deadline = rng.randrange(500), time.monotonic() + 600
        while (
            sum(1 for _ in processed_dir(data_dir).glob("*/*.jpg")) < crops
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        processes = list(family(process.pid))
        process.kill()
        process.wait()
        while any(map(is_running, processes)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(is_running, processes)), "a worker outlived its parent"
        done = digests(processed_dir(data_dir))
        done = {name: done[name] for name in done if name.endswith(".jpg") and ".part-" not in name}
        assert done.items() <= expected.items()
        # A temporary file as a kill may leave it
        (processed_dir(data_dir) / "breed_0" / ".part-1-n_0.jpg").write_bytes(b"half a crop")
        age_temporary_files(data_dir)
        assert select(data_dir).returncode == 0
        assert digests(processed_dir(data_dir)) == expected


def test_a_changed_photo_is_cropped_again(tmp_path):
    photo, _ = plant(tmp_path, "n_1", encode(smooth_image()), annotation())
    assert crop_breeds(tmp_path, ["pug"])["done"] == 1
    before = digests(processed_dir(tmp_path))
    photo.write_bytes(encode(smooth_image(seed=1)))
    assert (
        crop_breeds(tmp_path, ["pug"])["done"] == 1 and digests(processed_dir(tmp_path)) != before
    )
    assert crop_breeds(tmp_path, ["pug"])["done"] == 0


def test_a_photo_that_is_damaged_after_it_was_cropped_loses_its_crop(tmp_path):
    photo, xml = plant(tmp_path, "n_1", encode(smooth_image()), annotation())
    plant(tmp_path, "n_2", encode(smooth_image(seed=2)), annotation())
    assert crop_breeds(tmp_path, ["pug"])["done"] == 2
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    summary = crop_breeds(tmp_path, ["pug"])
    assert [file for file, _ in summary["failed"]] == [f"Images/{photo.parent.name}/n_1.jpg"]
    assert list_images(tmp_path, ["pug"]) == {"pug": [f"{photo.parent.name}/n_2.jpg"]}
    photo.write_bytes(whole)
    assert crop_breeds(tmp_path, ["pug"])["done"] == 1
    xml.write_bytes(annotation(boxes=[(5, 5, 5, 5)]))  # or its box has become empty
    assert crop_breeds(tmp_path, ["pug"])["failed"]
    assert list_images(tmp_path, ["pug"]) == {"pug": [f"{photo.parent.name}/n_2.jpg"]}


def test_a_file_that_another_run_is_writing_stays(tmp_path):
    plant(tmp_path, "n_1", encode(smooth_image()), annotation())
    temporary = processed_dir(tmp_path) / "pug" / f".part-{os.getpid()}-n_1.jpg"
    temporary.parent.mkdir(parents=True)
    temporary.touch()
    crop_breeds(tmp_path, ["pug"])
    assert temporary.exists()
    age_temporary_files(tmp_path)
    crop_breeds(tmp_path, ["pug"])
    assert not temporary.exists()


@pytest.mark.parametrize("crops", [0, 200])
def test_ctrl_c_says_how_to_continue(many, tmp_path, crops):
    data_dir = copy_of(many, tmp_path / "data")
    arguments, options = (
        command(SCRIPT, "--data-dir", data_dir),
        {"start_new_session": True, "preexec_fn": accept_ctrl_c},
    )
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, **options)
    made = processed_dir(data_dir)
    while process.poll() is None and (not made.exists() or len(list(made.glob("*/*.jpg"))) < crops):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert error.strip().splitlines() == [
        "data_selection.py: interrupted; run it again to continue"
    ]
    age_temporary_files(data_dir)
    # The next run removes the temporary files of the stopped workers
    assert select(data_dir).returncode == 0
    assert not list(tmp_path.rglob(".part-*"))


INTERRUPTED_START = """
import os, posixpath, signal, sys, threading, time
from multiprocessing import util
from dog_breeds.workers import map_in_processes

def start_and_interrupt(*arguments, start=util.spawnv_passfds):
    process = start(*arguments)
    if "spawn_main" in str(arguments):
        os.killpg(0, signal.SIGINT)
        time.sleep(0.1)
    return process

util.spawnv_passfds = start_and_interrupt
# Like NumPy's threads, this thread receives the signals that the main thread blocks
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
try:
    list(map_in_processes(posixpath.basename, [("a/b",)] * 4, 2))
except KeyboardInterrupt:
    sys.exit(5)
"""


def test_ctrl_c_between_the_start_of_a_worker_and_its_first_task():
    arguments, options = (
        [sys.executable, "-c", INTERRUPTED_START],
        {"start_new_session": True, "preexec_fn": accept_ctrl_c},
    )
    result = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )
    assert (result.returncode, result.stderr) == (5, "")


def test_full_disk_is_one_line_and_nothing_half_written(many, tmp_path):
    data_dir = copy_of(many, tmp_path / "data")
    limit = resource.RLIMIT_FSIZE, (1000, 1000)  # bytes per file
    result = select(data_dir, preexec_fn=lambda: resource.setrlimit(*limit))
    assert result.returncode == 1
    assert result.stderr.startswith("data_selection.py: [Errno 27] File too large")
    assert result.stderr.count("\n") == 1
    assert not list(processed_dir(data_dir).glob("*/*.jpg"))


# --- Names and the command line -------------------------------------------------------------------


def test_missing_data_and_unknown_breeds_are_one_line(tmp_path):
    missing = select(tmp_path)
    assert missing.returncode == 1
    assert "run make_dataset.py first" in missing.stderr
    assert missing.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    plant(tmp_path, "a_1", encode(smooth_image()), annotation())
    unknown = select(tmp_path, "--breeds", "pugg")
    assert unknown.returncode == 1
    assert unknown.stderr == "data_selection.py: unknown breed 'pugg'; did you mean pug?\n"
    assert not processed_dir(tmp_path).exists()


def test_the_import_loads_no_large_packages():
    code = (
        "import sys, data_selection; "
        "print({'tensorflow', 'matplotlib', 'keras'} & set(sys.modules))"
    )
    assert run_python(code).stdout == "set()\n"


def test_workers_do_not_import_the_calling_script(tmp_path):
    for number in range(2):
        plant(tmp_path, f"a_{number}", encode(smooth_image()), annotation())
    # The script has no `if __name__ == "__main__"`, so an import would run it again
    script = tmp_path / "heavy.py"
    script.write_text(
        "import data_selection, pathlib\nprint('imported')\n"
        "print(data_selection.crop_breeds(pathlib.Path(), ['pug'])['done'])\n"
    )
    result = run(script, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (result.stdout, result.stderr) == ("imported\n2\n", "")
