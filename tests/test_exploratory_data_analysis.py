"""The plots and the summary show the right numbers, and all texts in the plots are readable."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import TEN, run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from planted import annotation, encode, plant, smooth_image

from dog_breeds.data.dataset import count_images, display_name, images_dir
from exploratory_data_analysis import (
    describe_copies,
    describe_statistics,
    plot_box_coverage,
    plot_boxes_per_photo,
    plot_images_per_breed,
    plot_photo_sizes,
    plot_top_breeds,
    read_copies,
    read_statistics,
)

PLOTS = {
    "eda.png",
    "images_per_breed.png",
    "photo_sizes.png",
    "box_coverage.png",
    "boxes_per_photo.png",
}
analyse = functools.partial(run, "exploratory_data_analysis.py")
# As many breeds as the real dataset has, with names as long as its longest
# (American_Staffordshire_terrier).
ALL = TEN | {
    f"american_staffordshire_{chr(97 + n // 26)}{chr(97 + n % 26)}rrier": 209 - n // 2
    for n in range(110)
}


@pytest.fixture
def five_photos(tmp_path) -> Path:
    """Five photos of three breeds. One XML file is broken, and one box lies outside its photo."""
    plant(tmp_path, "a_1", b"", annotation((500, 400), [(0, 0, 250, 400)]), "n02110958-pug")
    plant(
        tmp_path,
        "a_2",
        b"",
        annotation((500, 400), [(0, 0, 50, 40), (10, 10, 20, 20)]),
        "n02110958-pug",
    )
    plant(tmp_path, "a_3", b"", annotation((200, 250), [(100, 0, 300, 250)]), "n02110958-pug")
    plant(tmp_path, "b_1", b"", annotation((500, 400), [(600, 0, 700, 10)]), "n02108089-boxer")
    plant(tmp_path, "c_1", b"", annotation((500, 400), []), "n02086240-Shih-Tzu")
    return tmp_path


def visible_texts(figure: Figure) -> list:
    """Return all visible texts of a figure."""
    FigureCanvasAgg(figure).draw()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += axes.texts
        for axis in (axis for axis in (axes.xaxis, axes.yaxis) if axis.get_visible()):
            low, high = sorted(axis.get_view_interval())
            texts += [
                axis.label,
                *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high),
            ]
    return [text for text in texts if text.get_text() and text.get_visible()]


def strings(figure: Figure) -> list[str]:
    """Return the visible texts as strings."""
    return [text.get_text() for text in visible_texts(figure)]


def unreadable(figure: Figure) -> list[str]:
    """Name the texts that leave the figure, overlap or are smaller than 7 points."""
    shown = visible_texts(figure)
    boxes = [text.get_window_extent() for text in shown]
    page = figure.bbox
    faults = [
        f"leaves the page: {text.get_text()}"
        for text, box in zip(shown, boxes, strict=True)
        if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1
    ]
    for (text, box), (other, other_box) in itertools.combinations(
        zip(shown, boxes, strict=True), 2
    ):
        if (
            box.x0 < other_box.x1
            and other_box.x0 < box.x1
            and box.y0 < other_box.y1
            and other_box.y0 < box.y1
        ):
            faults.append(f"overlap: {text.get_text()!r} and {other.get_text()!r}")
    return faults + [f"small: {text.get_text()}" for text in shown if text.get_fontsize() < 7]


# --- The plots ------------------------------------------------------------------------------------


def test_top_breeds_has_ten_bars_from_zero_with_names_and_counts():
    figure = plot_top_breeds(ALL)
    [axes] = figure.axes
    assert len({bar.get_facecolor() for bar in axes.patches}) == 1
    assert axes.get_xlim()[0] == 0
    assert [bar.get_width() for bar in axes.patches] == list(TEN.values())
    assert {"Maltese", "Bernese Mountain Dog", "Leonberger", "252", "210"} <= set(strings(figure))
    assert unreadable(figure) == []
    # At a figure width of 650 pixels
    assert min(text.get_fontsize() for text in axes.get_yticklabels()) >= 10
    assert figure.get_size_inches()[0] * 100 == 650


@pytest.mark.parametrize(
    "counts",
    [
        {"pug": 24, "boxer": 1},
        {"pug": 3},
        {"american_staffordshire_terrier": 100_000, "pug": 99_990},
    ],
)
def test_top_breeds_of_other_data(counts):
    assert unreadable(plot_top_breeds(counts)) == []


@pytest.mark.parametrize("number", [1, 12, 60, 61, 120])
def test_every_breed_is_shown_and_readable(number):
    counts = dict(list(ALL.items())[:number])
    figure = plot_images_per_breed(counts)
    shown = strings(figure)
    assert {display_name(name) for name in counts} <= set(shown)
    assert [bar.get_width() for axes in figure.axes for bar in axes.patches] == list(
        counts.values()
    )
    assert all(axes.get_xlim()[0] == 0 for axes in figure.axes)
    assert unreadable(figure) == []


def test_plots_of_sizes_coverage_and_boxes():
    rng = np.random.default_rng(33)
    sizes = np.array(
        [(500, 375)] * 60 + [(500, 333)] * 30 + rng.integers(97, 3264, (50, 2)).tolist()
    )
    figure = plot_photo_sizes(sizes)
    assert {"500 x 375: 43%", "500 x 333: 21%"} <= set(strings(figure))
    assert unreadable(figure) == []

    figure = plot_box_coverage(np.array([0.1] * 20 + [0.52] * 70 + [1.0] * 10))
    assert any("less than 52%" in text for text in strings(figure))
    assert [round(bar.get_height(), 6) for bar in figure.axes[0].patches if bar.get_height()] == [
        0.2,
        0.7,
        0.1,
    ]
    assert unreadable(figure) == []

    figure = plot_boxes_per_photo(np.array([1] * 950 + [2] * 40 + [3] * 9 + [7]))
    assert {"1 box", "7 boxes", "950 (95.00%)", "1 (0.10%)"} <= set(strings(figure))
    assert unreadable(figure) == []


# --- Facts and the command ------------------------------------------------------------------------


def test_facts(five_photos):
    facts = read_statistics(five_photos)
    assert sorted(map(tuple, facts["sizes"].tolist())) == [
        (200, 250),
        (500, 400),
        (500, 400),
        (500, 400),
    ]
    assert sorted(facts["boxes"].tolist()) == [1, 1, 1, 2]
    assert sorted(facts["coverage"].tolist()) == [0.0, 0.01, 0.5, 0.5]
    [reason] = facts["unusable"]
    assert "c_1" in reason
    text = describe_statistics(count_images(five_photos), facts)
    assert "photos: 5 of 3 breeds, from 1 (Shih Tzu) to 3 (Pug) a breed" in text
    assert "75% are 500 x 400; 25% have a side below 299" in text
    assert "boxes: 5; 25.0% of the photos have more than one" in text
    assert "unusable: 1 XML files" in text


def test_command_writes_the_plots(five_photos, tmp_path):
    plots = tmp_path / "new" / "plots"
    for _ in range(2):
        result = analyse("--data-dir", five_photos, "--plots-dir", plots)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert {path.name for path in plots.iterdir()} == PLOTS
    for path in plots.iterdir():
        with Image.open(path) as image:
            assert (image.format, image.width) == ("PNG", 1300)
            assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_copies_are_counted_and_named_across_breeds(tmp_path):
    photos = {
        "n02108089-boxer/b_1": 1,
        "n02108089-boxer/b_2": 2,
        "n02110958-pug/a_1": 3,
        "n02110958-pug/a_2": 3,
    }
    for name, seed in photos.items():
        plant(
            tmp_path,
            name.split("/")[1],
            encode(smooth_image(seed=seed)),
            annotation(),
            name.split("/")[0],
        )
    assert (
        describe_copies(read_copies(tmp_path)) == "copies: 1 photo shows the same as an earlier one"
    )
    plant(tmp_path, "a_3", encode(smooth_image(90, 60, seed=2), quality=50), annotation())
    assert read_copies(tmp_path) == [
        ("n02110958-pug/a_2.jpg", "n02110958-pug/a_1.jpg"),
        ("n02110958-pug/a_3.jpg", "n02108089-boxer/b_2.jpg"),
    ]
    result = analyse("--data-dir", tmp_path, "--plots-dir", tmp_path / "plots")
    assert (
        "2 photos show the same as an earlier one, 1 of them under another breed, the first is"
        in result.stdout
    )
    assert "n02110958-pug/a_3.jpg of n02108089-boxer/b_2.jpg\n" in result.stdout


def test_without_data_one_line(tmp_path):
    result = analyse("--data-dir", tmp_path, "--plots-dir", tmp_path / "plots")
    assert result.returncode == 1
    assert "run make_dataset.py first" in result.stderr
    assert result.stderr.count("\n") == 1
    (images_dir(tmp_path) / "n02110958-pug").mkdir(parents=True)
    result = analyse("--data-dir", tmp_path, "--plots-dir", tmp_path / "plots")
    assert result.returncode == 1
    assert "no usable annotation" in result.stderr
    assert not (tmp_path / "plots").exists()


def test_real_data(real_data, tmp_path):
    result = analyse("--data-dir", real_data, "--plots-dir", tmp_path / "plots")
    assert result.returncode == 0, result.stderr
    ten = ", ".join(f"{display_name(name)} {count}" for name, count in TEN.items())
    assert f"most images: {ten}\n" in result.stdout
    assert (
        "photos: 2,535 of 12 breeds, from 150 (Golden Retriever) to 252 (Maltese)" in result.stdout
    )
    assert "boxes: 2,794" in result.stdout
    assert "\ncopies: 13 photos show the same as an earlier one\n" in result.stdout
    assert "unusable" not in result.stdout
    assert {path.name for path in (tmp_path / "plots").iterdir()} == PLOTS
    facts = read_statistics(real_data)
    for plot, fact in (
        (plot_photo_sizes, "sizes"),
        (plot_box_coverage, "coverage"),
        (plot_boxes_per_photo, "boxes"),
    ):
        assert unreadable(plot(facts[fact])) == []
