"""Show what the Stanford Dogs dataset contains, before training on it.

Reads     data/raw (made by make_dataset.py): sizes and boxes from the XML files, and the photos,
          to find copies.
Writes    plots/eda.png, the ten breeds with most images, and beside it images_per_breed.png,
          photo_sizes.png, box_coverage.png and boxes_per_photo.png.
Example

    python exploratory_data_analysis.py    # saves the plots and prints the facts

Time      About 15 seconds for all 20,580 photos.
Expect    A few lines on the terminal with the same facts as in the plots.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from dog_breeds import recipe
from dog_breeds.console import one_line_errors, one_line_import_errors, script_parser
from dog_breeds.data.dataset import (
    DATA_DIR,
    TOP,
    annotation_dir,
    breed_folders,
    clip_box,
    count_images,
    display_name,
    images_dir,
    read_annotation,
)
from dog_breeds.data.duplicates import find_copies

with one_line_import_errors(__name__):  # Matplotlib is only in the environment of make install
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

    from dog_breeds.learning.plot_style import ACCENT, GRAY, INK, new_plot, save_plot

PLOTS_DIR = Path("plots")
ROWS = 60  # breeds in a column of images_per_breed.png

# --- Statistics -----------------------------------------------------------------------------------


def read_statistics(data_dir: Path) -> dict:
    """Return statistics of the XML files as arrays, without opening a photo.

    The result has {"sizes": (N, 2) width and height in pixels, "boxes": (N,) number of boxes,
    "coverage": (N,) share 0..1 of the photo inside its first box, "unusable": messages about the
    other XML files}. N is the number of usable XML files. Raises ValueError if N is 0.
    """
    sizes, boxes, coverage, unusable = [], [], [], []
    for folder in breed_folders(data_dir).values():
        for path in (annotation_dir(data_dir) / folder).glob("[!.]*"):
            try:
                annotation = read_annotation(path)
                width, height = annotation["width"], annotation["height"]
                if width <= 0 or height <= 0:
                    raise ValueError(f"{path}: no size")
            except ValueError as error:
                unusable.append(str(error))
                continue
            # A first box outside the photo covers none of it
            xmin, ymin, xmax, ymax = clip_box(annotation["boxes"][0], width, height) or (0, 0, 0, 0)
            sizes.append((width, height))
            boxes.append(len(annotation["boxes"]))
            coverage.append((xmax - xmin) * (ymax - ymin) / (width * height))
    if not sizes:
        raise ValueError(
            f"no usable annotation in {annotation_dir(data_dir)}; run make_dataset.py again"
        )
    return {
        "sizes": np.array(sizes),
        "boxes": np.array(boxes),
        "coverage": np.array(coverage),
        "unusable": unusable,
    }


def describe_statistics(counts: dict[str, int], statistics: dict) -> str:
    """Describe the statistics in a few lines of text."""
    names, sizes, boxes = list(counts), statistics["sizes"], statistics["boxes"]
    (width, height), number = Counter(map(tuple, sizes.tolist())).most_common(1)[0]
    (least_width, least_height), (most_width, most_height) = sizes.min(0), sizes.max(0)
    low, median, high = np.percentile(statistics["coverage"], (10, 50, 90))
    small = np.mean(sizes.min(1) < recipe.SIZE)
    lines = [
        f"photos: {sum(counts.values()):,} of {len(names)} breeds, from {counts[names[-1]]} "
        f"({display_name(names[-1])}) to {counts[names[0]]} ({display_name(names[0])}) a breed",
        f"most images: {', '.join(f'{display_name(name)} {counts[name]}' for name in names[:TOP])}",
        f"sizes: widths of {least_width} to {most_width} and heights of {least_height} to "
        f"{most_height} pixels; {number / len(sizes):.0%} are {width} x {height}; {small:.0%} "
        f"have a side below {recipe.SIZE}",
        f"boxes: {boxes.sum():,}; {np.mean(boxes > 1):.1%} of the photos have more than one",
        f"coverage: first boxes fill {median:.0%} of the photo in the median, "
        f"{low:.0%} to {high:.0%} in 8 of 10",
    ]
    if statistics["unusable"]:
        lines.append(
            f"unusable: {len(statistics['unusable'])} XML files, "
            f"the first is {statistics['unusable'][0]}"
        )
    return "\n".join(lines)


def read_copies(data_dir: Path) -> list[tuple[str, str]]:
    """Return the photos that show the same as an earlier photo, each with that earlier photo.

    Each pair is (<wnid-Name>/<id>.jpg, <wnid-Name>/<id>.jpg). The function opens every photo.
    """
    photos = sorted(images_dir(data_dir).glob("*/[!.]*.jpg"))
    names = [f"{photo.parent.name}/{photo.name}" for photo in photos]
    return [(names[i], names[first]) for i, first in enumerate(find_copies(photos)) if first != i]


def describe_copies(copies: list[tuple[str, str]]) -> str:
    """Describe in one line how many copies there are, and how many of them have another breed."""
    other = [
        f"{copy} of {first}" for copy, first in copies if copy.split("/")[0] != first.split("/")[0]
    ]
    noun = "photo shows" if len(copies) == 1 else "photos show"
    text = f"copies: {len(copies):,} {noun} the same as an earlier one"
    return text + (
        f", {len(other)} of them under another breed, the first is {other[0]}" if other else ""
    )


# --- Plots, each an independent matplotlib Figure -------------------------------------------------


def plot_top_breeds(counts: dict[str, int]) -> Figure:
    """Plot a bar for each of the breeds with most images. `counts` comes from count_images."""
    names, values = list(counts)[:TOP], np.array(list(counts.values())[:TOP])
    figure, [axes] = new_plot(
        0.36 * len(names) + 0.6, f"The {len(names)} breeds with most images", ""
    )
    bars = axes.barh([display_name(name) for name in names], values, color=ACCENT, height=0.8)
    axes.bar_label(bars, padding=4, color=INK)
    # Room for the labels on the right; the y axis points down, so that the first bar is on top
    axes.set(xlim=(0, values.max() * 1.12), ylim=(len(names) - 0.5, -0.5), xlabel="images")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(axis="y", labelcolor=INK, labelsize=11)
    axes.grid(axis="x")
    return figure


def plot_images_per_breed(counts: dict[str, int]) -> Figure:
    """Plot a thin bar for each breed, with the ten largest breeds in colour.

    `counts` comes from count_images.
    """
    names, values = [display_name(name) for name in counts], np.array(list(counts.values()))
    columns = math.ceil(len(names) / ROWS)
    rows = math.ceil(len(names) / columns)
    note = (
        f"{values.sum():,} photos of {len(names)} breeds: {values.min()} to {values.max()} a "
        "breed, "
    )
    note += (
        f"{values.mean():.0f} on average."
        + " The ten breeds with most images are coloured." * (len(names) > TOP)
    )
    figure, all_axes = new_plot(0.17 * rows + 0.1, "Images per breed", note, columns)
    colors = [ACCENT if rank < TOP else "#b5bdb8" for rank in range(len(names))]
    for column, axes in enumerate(all_axes):
        shown = slice(column * rows, (column + 1) * rows)
        bars = axes.barh(names[shown], values[shown], color=colors[shown], height=0.72)
        axes.bar_label(bars, padding=3, size=8, color=GRAY)
        # The last column may be shorter; `rows` keeps its bars as thick as the others
        axes.set(xlim=(0, values.max() * 1.15), ylim=(rows - 0.5, -0.5))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", labelcolor=INK, labelsize=8)
    return figure


def plot_photo_sizes(sizes: np.ndarray) -> Figure:
    """Plot a disc for each photo size. The area of the disc is the number of photos.

    `sizes` (N, 2) holds width and height in pixels.
    """
    unique_sizes, numbers = np.unique(sizes, axis=0, return_counts=True)
    shares = numbers / len(sizes)
    note = (
        f"{len(unique_sizes):,} different sizes; the area of a disc is the number of photos. "
        f"Dotted: the {recipe.SIZE} pixels that {recipe.BACKBONE} sees; "
        f"{np.mean(sizes.min(1) < recipe.SIZE):.0%} of the photos have a shorter side."
    )
    figure, [axes] = new_plot(5.7, "Sizes of the photos", note)
    axes.scatter(*unique_sizes.T, s=6 + 1500 * shares, color=ACCENT, alpha=0.45, linewidth=0)
    for (width, height), share in zip(unique_sizes, shares, strict=True):
        if share >= 0.1:  # label only the most frequent sizes, so that labels do not overlap
            text = f"{width} x {height}: {share:.0%}"
            offset = (5 + 20 * math.sqrt(share), 0)  # in points, to the right of the disc
            style = {"size": 9.5, "color": INK, "va": "center"}
            axes.annotate(text, (width, height), offset, textcoords="offset points", **style)
    axes.axhline(recipe.SIZE, color=GRAY, linewidth=0.8, linestyle=":")
    axes.axvline(recipe.SIZE, color=GRAY, linewidth=0.8, linestyle=":")
    # The same limits for both axes, so that square photos are on the diagonal
    limits = min(sizes.min(), recipe.SIZE) * 0.8, max(sizes.max(), recipe.SIZE) * 1.25
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="width in pixels", ylabel="height in pixels")
    ticks = [
        tick
        for tick in (50, 100, 200, 500, 1000, 2000, 5000, 10000)
        if limits[0] <= tick <= limits[1]
    ]
    axes.set_xticks(ticks, ticks)
    axes.set_yticks(ticks, ticks)
    axes.minorticks_off()
    axes.grid()
    return figure


def plot_box_coverage(coverage: np.ndarray) -> Figure:
    """Plot how much of the photo the dog's box covers. `coverage` (N,) is in 0..1."""
    low, median = np.percentile(coverage, (10, 50))
    note = (
        f"Half of the dogs fill less than {median:.0%} of their photo (dashed), "
        f"a tenth less than {low:.0%}."
    )
    figure, [axes] = new_plot(2.8, "Share of the photo that the dog's box covers", note)
    weights = np.full(len(coverage), 1 / len(coverage))  # so that the bars add up to 1
    axes.hist(coverage, np.linspace(0, 1, 21), weights=weights, color=ACCENT, rwidth=0.92)
    axes.axvline(median, color=INK, linewidth=1.2, linestyle="--")
    axes.set(xlim=(0, 1), xlabel="share of the photo covered", ylabel="share of the photos")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.grid(axis="y")
    return figure


def plot_boxes_per_photo(boxes: np.ndarray) -> Figure:
    """Plot how many photos have one box, two boxes and so on. `boxes` (N,) holds the numbers."""
    numbers, photos = np.unique(boxes, return_counts=True)
    note = (
        f"{len(boxes):,} photos have {boxes.sum():,} boxes. By default only the first of a photo "
        "is cropped."
    )
    figure, [axes] = new_plot(0.36 * len(numbers) + 0.1, "Boxes per photo", note)
    names = [f"{number} box{'es' if number > 1 else ''}" for number in numbers]
    bars = axes.barh(names, photos, color=ACCENT, height=0.8)
    shares = [f"{count:,} ({count / len(boxes):.2%})" for count in photos]
    axes.bar_label(bars, shares, padding=4, color=INK)
    axes.set(xlim=(0, photos.max() * 1.25), ylim=(len(numbers) - 0.5, -0.5))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=11)
    return figure


# --- Command line ---------------------------------------------------------------------------------


def main() -> None:
    """Read the annotations and photos, print the facts and save the plots."""
    parser = script_parser(
        __doc__, "python exploratory_data_analysis.py --data-dir data --plots-dir plots"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DATA_DIR, help="where raw/ is (default: %(default)s)"
    )
    parser.add_argument(
        "--plots-dir", type=Path, default=PLOTS_DIR, help="where to write (default: %(default)s)"
    )
    args = parser.parse_args()
    with one_line_errors():
        counts, statistics = count_images(args.data_dir), read_statistics(args.data_dir)
        plots = {
            "eda": plot_top_breeds(counts),
            "images_per_breed": plot_images_per_breed(counts),
            "photo_sizes": plot_photo_sizes(statistics["sizes"]),
            "box_coverage": plot_box_coverage(statistics["coverage"]),
            "boxes_per_photo": plot_boxes_per_photo(statistics["boxes"]),
        }
        for name, figure in plots.items():
            save_plot(figure, args.plots_dir / f"{name}.png")
        copies = read_copies(args.data_dir)  # last, because it decodes every photo
        print(describe_statistics(counts, statistics))
        print(describe_copies(copies))
        print(f"plots: {', '.join(str(args.plots_dir / name) + '.png' for name in plots)}")


if __name__ == "__main__":
    main()
