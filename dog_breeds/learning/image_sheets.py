"""Image sheets for notebook.ipynb: crops, training views, test predictions and explanations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from dog_breeds.clients.client_images import shade_image
from dog_breeds.data.dataset import (
    Task,
    annotation_dir,
    breed_name,
    display_name,
    read_annotation,
)
from dog_breeds.learning.features import View, crop_view, load_pixels
from dog_breeds.learning.heads import Classifier, logit_gradient
from dog_breeds.learning.metrics import log_softmax
from dog_breeds.learning.plot_style import INK, RED, WIDTH, new_plot
from dog_breeds.learning.tflite import run_file
from dog_breeds.serving.explanation import evidence

PIXELS = 120  # height and width of a small image


def plot_crops(task: Task, images: Sequence[str]) -> Figure:
    """Plot photos with the box of their first dog above the crops made by data_selection.py."""
    annotations = annotation_dir(task.data_dir)
    photos, crops = [], []
    for image in images:
        photo = Image.open(task.photo(image)).convert("RGB")
        box = read_annotation(annotations / image.removesuffix(".jpg"))["boxes"][0]
        photos.append(
            (np.asarray(outline(photo, box)), display_name(breed_name(image.split("/")[0])))
        )
        crops.append(
            (
                load_pixels(crop_view(task, image), PIXELS),
                f"from {box[2] - box[0]} x {box[3] - box[1]}",
            )
        )
    note = "Above: a photo with the box from its XML file. Below: the crop, "
    note += f"{task.size} x {task.size} pixels whatever the box's shape."
    return plot_images([photos, crops], "From photos to crops", note)


def outline(photo: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Draw a red frame with white edges around the box into the photo; return the photo.

    `box` is (left, top, right, bottom) in pixels.
    """
    draw, width = ImageDraw.Draw(photo), max(photo.size) // 60
    for color, grow, thickness in (("white", width, 2 * width), (RED, width // 2, width)):
        draw.rectangle(
            (box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow), None, color, thickness
        )
    return photo


def plot_views(views: Sequence[View], rows: int) -> Figure:
    """Plot the images that the model sees, in `rows` rows; `views` are in order row by row."""
    cells = []
    for view in views:
        changes = [f"{view.angle:+.0f}°"] * bool(view.angle) + ["mirrored"] * view.flip
        cells.append(
            (
                load_pixels(view, PIXELS),
                ", ".join(["photo" if view.share < 1 else "crop", *changes]),
            )
        )
    columns = len(cells) // rows
    note = (
        "Each column is one training image. The corners that a rotation leaves empty show the "
        "mirrored edge."
    )
    return plot_images(
        [cells[row * columns : (row + 1) * columns] for row in range(rows)],
        "Views of training images",
        note,
    )


def plot_samples(
    views: Sequence[View], logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Figure:
    """Plot ten test images with their predictions.

    `views` (n), `logits` [n, classes] and `labels` [n] are in the same order.
    """
    order = hardest_first(logits, labels)
    others = np.sort(order[5:])  # back in the order of `views`
    rows = order[:5], others[np.linspace(0, len(others) - 1, 5).astype(int)]
    cells = [
        [(load_pixels(views[i], PIXELS), *caption_of(logits[i], labels[i], classes)) for i in row]
        for row in rows
    ]
    note = (
        "Above: the five whose true breed got the lowest probability. Below: five others. Wrong "
        "answers are red, with the true breed in brackets."
    )
    return plot_images(cells, "Answers to test images", note)


def plot_explanations(
    task: Task,
    classifier: Classifier,
    views: Sequence[View],
    logits: np.ndarray,
    labels: np.ndarray,
) -> Figure:
    """Plot the five hardest test images; parts that did not support the prediction are dark.

    "Hardest" means the lowest probability of the true class.
    """
    rows, cells = hardest_first(logits, labels)[:5], []
    hardest = [views[i] for i in rows]
    outputs = run_file(
        task.backbone, hardest, lambda view: load_pixels(view, task.size), ["map", "features"]
    )
    for i, (maps, features) in zip(rows, outputs, strict=True):
        light = evidence(maps, logit_gradient(classifier.weights, features, logits[i].argmax()))
        shown_image = shade_image(
            Image.fromarray(load_pixels(views[i], PIXELS)), light.tolist(), 1.0
        )
        cells.append((np.asarray(shown_image), *caption_of(logits[i], labels[i], task.classes)))
    height, width = maps.shape[:2]
    note = "The same five. What spoke for the answer is light: its part in the logit, in "
    note += f"{height} x {width} cells."
    return plot_images([cells], "Where the model looked", note)


def hardest_first(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return row numbers [n] sorted by the probability of the true class, lowest first."""
    return np.argsort(log_softmax(logits)[np.arange(len(labels)), labels])


def caption_of(logits: np.ndarray, label: int, classes: Sequence[str]) -> tuple[str, str]:
    """Return the caption of an image with these logits [classes], and the caption's colour."""
    guess = int(logits.argmax())
    text = f"{display_name(classes[guess])}\n{np.exp(log_softmax(logits[None]))[0, guess]:.1%}"
    return (text, INK) if guess == label else (f"{text}\n({display_name(classes[label])})", RED)


def plot_images(rows: Sequence[Sequence[tuple]], title: str, note: str) -> Figure:
    """Plot a sheet of images with captions.

    Each cell of `rows` is (pixels uint8 [height, width, 3], caption) or (pixels, caption, colour of
    the caption). The default colour is INK.
    """
    columns, lines = (
        max(map(len, rows)),
        max(cell[1].count("\n") for row in rows for cell in row) + 1,
    )
    # Distance between rows; the unit is the width of an image with its margin
    pitch = 1.02 + 0.13 * lines * columns / 5
    figure, [axes] = new_plot(len(rows) * pitch * WIDTH / columns, title, note)
    for row, cells in enumerate(rows):
        for column, (pixels, caption, *color) in enumerate(cells):
            height, width = pixels.shape[:2]
            height, width = 0.92 * height / max(height, width), 0.92 * width / max(height, width)
            middle, bottom = column + 0.5, row * pitch + 0.96
            axes.imshow(
                pixels, extent=(middle - width / 2, middle + width / 2, bottom, bottom - height)
            )
            style = {
                "size": 8,
                "color": (color or [INK])[0],
                "ha": "center",
                "va": "top",
                "linespacing": 1.15,
            }
            axes.text(middle, bottom + 0.03, caption, **style)
    axes.set(xlim=(0, columns), ylim=(len(rows) * pitch, 0), aspect="equal")
    axes.axis("off")
    return figure
