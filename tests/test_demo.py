"""The demo dataset is complete, annotated like the real dataset, and the same every time."""

import random
import xml.etree.ElementTree as ElementTree

import pytest
from odd_images import saved
from PIL import Image

from dog_breeds.data.dataset import annotation_dir, images_dir
from dog_breeds.data.demo import draw_photo
from dog_breeds.data.demo_drawings import DEMO_BREEDS


def test_demo_has_ten_breeds_of_different_numbers(demo):
    counts = {folder.name: len(list(folder.iterdir())) for folder in images_dir(demo).iterdir()}
    assert counts == {name: breed["photos"] for name, breed in DEMO_BREEDS.items()}
    assert len(counts) == 10
    assert 10 <= min(counts.values()) < max(counts.values()) <= 20


def test_demo_annotations_describe_the_photos(demo):
    sizes, two_dogs = set(), 0
    for path in images_dir(demo).rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            width, height = image.size
        xml = ElementTree.parse(annotation_dir(demo) / path.parent.name / path.stem).getroot()
        assert xml.findtext("filename") == path.stem
        stated = [xml.findtext(f"size/{side}") for side in ("width", "height")]
        assert stated == [str(width), str(height)]
        objects = xml.findall("object")
        for dog in objects:
            assert dog.findtext("name") == path.parent.name.split("-", 1)[1]
            xmin, ymin, xmax, ymax = (
                int(dog.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            assert 0 <= xmin < xmax < width
            assert 0 <= ymin < ymax < height
        sizes.add((width, height))
        two_dogs += len(objects) == 2
    assert len(sizes) > 3
    assert 5 <= two_dogs <= 60


@pytest.mark.parametrize("name", DEMO_BREEDS)
def test_demo_is_the_same_every_time(demo, name):
    wnid = name.split("-")[0]
    image, _ = draw_photo(DEMO_BREEDS[name], random.Random(f"{wnid}_3"))
    # No real photo has such a number
    drawn = images_dir(demo) / name / f"{wnid}_900003.jpg"
    assert drawn.read_bytes() == saved(image, format="JPEG", quality=92)
