"""Measure speed and memory of make_dataset.py and data_selection.py on archives like the real ones.

Writes    images.tar and annotation.tar in a temporary folder: 120 breeds, 20,580 photos of
          500 x 375 pixels, 0.8 GB.
Example

    python benchmarks/data.py --json data.json     # about 4 minutes on 2 cores
    python benchmarks/data.py --pictures 2000      # a smaller archive
    python benchmarks/data.py --archives FOLDER    # existing archives, for instance the real ones

Time      About 4 minutes on 2 cores. Needs Linux and 5 GB of disk.
Expect    The rates beside those of the original recipe's loops in the same run (tarfile.extractall;
          one crop after the other), peak memory, the time of a second run, and the effect of JPEG
          settings on crops."""

import filecmp
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from common import Figure, command_line, report, run_watched, timed
from PIL import Image

from data_selection import JPEG, crop_dogs
from dog_breeds.data.dataset import annotation_dir, breed_folders, images_dir, processed_dir
from dog_breeds.recipe import SIZE

LOOKS = 0.5  # seconds between two samples of memory: the crops take few
BREEDS, PICTURES, WIDTH, HEIGHT = 120, 20_580, 500, 375
DISTINCT = 300  # different images; the archive repeats them under other names
XML = """<annotation>
\t<folder>{breed:08}</folder>
\t<filename>{name}</filename>
\t<source>
\t\t<database>ImageNet database</database>
\t</source>
\t<size>
\t\t<width>500</width>
\t\t<height>375</height>
\t\t<depth>3</depth>
\t</size>
\t<segment>0</segment>
\t<object>
\t\t<name>Breed_{breed}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{box[0]}</xmin>
\t\t\t<ymin>{box[1]}</ymin>
\t\t\t<xmax>{box[2]}</xmax>
\t\t\t<ymax>{box[3]}</ymax>
\t\t</bndbox>
\t</object>
</annotation>"""

# --- The archives ---------------------------------------------------------------------------------


def make_archives(folder: Path, images: int) -> None:
    """Write images.tar and annotation.tar with this many images, spread over 120 breeds."""
    random = np.random.default_rng(33)
    encoded = [draw_image(random) for _ in range(min(DISTINCT, images))]
    with (
        tarfile.open(folder / "images.tar", "w") as images,
        tarfile.open(folder / "annotation.tar", "w") as annotation,
    ):
        for number in range(images):
            breed = number * BREEDS // images
            name = f"n{breed:08}_{number}"
            xmin, ymin = random.integers(0, (WIDTH // 3, HEIGHT // 3))
            xmax, ymax = random.integers((WIDTH // 2, HEIGHT // 2), (WIDTH, HEIGHT))
            xml = XML.format(breed=breed, name=name, box=(xmin, ymin, xmax, ymax)).encode()
            add_file(
                images,
                f"Images/n{breed:08}-Breed_{breed}/{name}.jpg",
                encoded[number % len(encoded)],
            )
            add_file(annotation, f"Annotation/n{breed:08}-Breed_{breed}/{name}", xml)


def draw_image(random: np.random.Generator) -> bytes:
    """Return a JPEG whose detail falls with spatial frequency as in photographs (1/f).

    The file has about 38 kB, like the real ones."""
    fy, fx = np.meshgrid(np.fft.fftfreq(HEIGHT), np.fft.rfftfreq(WIDTH), indexing="ij")
    slope = 1 / np.maximum(np.hypot(fx, fy), 1 / WIDTH) ** 1.7
    planes = np.stack(
        [
            np.fft.irfft2(slope * np.fft.rfft2(random.normal(size=(HEIGHT, WIDTH))))
            for _ in range(3)
        ],
        -1,
    )
    planes = planes / planes.std(axis=(0, 1)) * (55, 12, 12) + 128  # strong luma, weaker colour
    image = Image.fromarray(planes.clip(0, 255).astype(np.uint8), "YCbCr")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar archive from memory."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


# --- The original recipe --------------------------------------------------------------------------


def extract_all(archives: Path, target: Path) -> None:
    """Extract as the original recipe does."""
    for name in ("images.tar", "annotation.tar"):
        with tarfile.open(archives / name) as archive:
            archive.extractall(target, filter="data")


def crop_one_by_one(data_dir: Path, target: Path, breeds: list[tuple[str, str]]) -> None:
    """Crop as the original recipe does: one photo after the other."""
    for breed, folder in breeds:
        (target / breed).mkdir(parents=True)
        for photo in sorted((images_dir(data_dir) / folder).iterdir()):
            box = (
                ElementTree.parse(annotation_dir(data_dir) / folder / photo.stem)
                .getroot()
                .find("object/bndbox")
            )
            image = Image.open(photo)
            image = image.crop(
                [int(box.find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")]
            )
            image = image.convert("RGB")
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            image.save(target / breed / photo.name, **JPEG)


# --- Measuring ------------------------------------------------------------------------------------


def visible_loss(
    crops: list[Image.Image], quality: int, subsampling: str
) -> tuple[float, float, float]:
    """Return the loss by JPEG: PSNR in dB, % of pixels off by more than 2.3 CIELAB units, mean size
    in kB.

    2.3 units are the just noticeable difference (Mahy, Van Eycken and Oosterlinck, 1994)."""
    errors, visible, sizes = [], [], []
    for crop in crops:
        file = io.BytesIO()
        crop.save(file, "JPEG", quality=quality, subsampling=subsampling)
        before, after = np.asarray(crop, float), np.asarray(Image.open(file), float)
        errors.append(np.mean((before - after) ** 2))
        visible.append(np.mean(np.linalg.norm(cielab(before) - cielab(after), axis=-1) > 2.3))
        sizes.append(file.tell() / 1e3)
    return 10 * np.log10(255**2 / np.mean(errors)), 100 * np.mean(visible), np.mean(sizes)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """Return the CIELAB colours (..., 3) of sRGB values 0..255 (..., 3), white D65."""
    value = rgb / 255
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / (0.9505, 1, 1.089)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


# --- The benchmark --------------------------------------------------------------------------------


def measure_extraction(archives: Path, target: Path, data_dir: Path) -> Iterator[Figure]:
    """Compare make_dataset.py's checked extraction into `data_dir` with tarfile.extractall into
    `target`."""
    data_dir.mkdir()
    seconds_serial = timed(extract_all, archives, target)
    make_raw = (
        "import pathlib, sys, make_dataset; "
        "make_dataset.make_raw(pathlib.Path(sys.argv[1]), sys.argv[2])"
    )
    seconds, peak = run_watched(["-c", make_raw, data_dir, archives], LOOKS)
    count = sum(1 for _ in images_dir(data_dir).glob("*/*.jpg"))
    yield "pictures", count, ""
    yield "extract_rate", count / seconds, "images/s"
    yield "extract_rate_tarfile", count / seconds_serial, "images/s"
    yield "extract_speedup", seconds_serial / seconds, "x"
    yield "extract_peak_memory", peak / 1e6, "MB"


def measure_crops(data_dir: Path, target: Path) -> Iterator[Figure]:
    """Compare data_selection.py with the serial loop, which writes to `target`. Then time a second
    run with nothing to do."""
    command = ["data_selection.py", "--data-dir", data_dir]
    count = sum(1 for _ in images_dir(data_dir).glob("*/*.jpg"))
    breeds = list(breed_folders(data_dir).items())
    # Run half of the serial loop before and half after, so that a machine that gets slower or
    # faster favours neither side.
    seconds_serial = timed(crop_one_by_one, data_dir, target, breeds[::2])
    seconds, peak = run_watched(command, LOOKS)
    seconds_serial += timed(crop_one_by_one, data_dir, target, breeds[1::2])
    yield "crop_rate", count / seconds, "images/s"
    yield "crop_rate_serial", count / seconds_serial, "images/s"
    yield "crop_speedup", seconds_serial / seconds, "x"
    yield "crop_peak_memory", peak / 1e6, "MB"
    pairs = [
        (path, processed_dir(data_dir) / path.relative_to(target))
        for path in target.glob("*/*.jpg")
    ]
    yield "crop_files_differing", sum(not filecmp.cmp(*pair, shallow=False) for pair in pairs), ""
    yield "second_run_time", run_watched(command)[0], "s"
    yield "second_run_time_all_objects", run_watched([*command, "--objects", "all"])[0], "s"


def measure_jpeg(data_dir: Path) -> Iterator[Figure]:
    """Yield the loss of JPEG settings on 100 crops. The project's own setting is among them."""
    photos = sorted(images_dir(data_dir).glob("*/*.jpg"))
    photos = photos[:: max(len(photos) // 100, 1)]
    crops = [
        crop_dogs(photo, annotation_dir(data_dir) / photo.parent.name / photo.stem)[0]
        for photo in photos
    ]
    for quality, subsampling in (
        (75, "4:2:0"),
        (90, "4:2:0"),
        (95, "4:2:0"),
        (90, "4:4:4"),
        (95, "4:4:4"),
    ):
        psnr, visible, size = visible_loss(crops, quality, subsampling)
        name = f"jpeg_{quality}_{subsampling.replace(':', '')}"
        yield f"{name}_psnr", psnr, "dB"
        yield f"{name}_visible", visible, "% of pixels"
        yield f"{name}_size", size, "kB"


def measure(archives: Path | None, images: int) -> Iterator[Figure]:
    """Make the archives, unless they are given, and measure."""
    with tempfile.TemporaryDirectory() as folder:
        work, data_dir = Path(folder), Path(folder) / "data"
        if not archives:
            make_archives(work, images)
        yield from measure_extraction(archives or work, work / "extractall", data_dir)
        yield from measure_crops(data_dir, work / "serial")
        yield from measure_jpeg(data_dir)


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--pictures", type=int, default=PICTURES, help="size of the archive (default: %(default)s)"
    )
    parser.add_argument("--archives", type=Path, help="folder of existing archives to use instead")
    args = parser.parse_args()
    report(measure(args.archives, args.pictures), args.json)


if __name__ == "__main__":
    main()
