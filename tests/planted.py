"""Small photos and annotations that tests write into a data folder."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from dog_breeds.data.dataset import annotation_dir, images_dir

FOLDER = "n02110958-pug"


def smooth_image(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """Return a smooth random RGB image without any symmetry."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, **options) -> bytes:
    """Return an image as bytes, as a JPEG by default."""
    file = io.BytesIO()
    image.save(file, **({"format": "JPEG", "quality": 95} | options))
    return file.getvalue()


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, by its path in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def annotation(size=(120, 90), boxes=((10, 20, 70, 80),)) -> bytes:
    """Return a Pascal VOC annotation with these boxes."""
    objects = "".join(
        "<object><name>dog</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>".format(
            *box
        )
        for box in boxes
    )
    size = "<size><width>{}</width><height>{}</height><depth>3</depth></size>".format(*size)
    return f"<annotation>{size}{objects}</annotation>".encode()


def plant(
    data_dir: Path, stem: str, photo: bytes | None, xml: bytes | None, folder: str = FOLDER
) -> tuple[Path, Path]:
    """Write a photo and its annotation to the places where make_dataset.py writes them."""
    paths = images_dir(data_dir) / folder / f"{stem}.jpg", annotation_dir(data_dir) / folder / stem
    for path, content in zip(paths, (photo, xml), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    return paths
