"""The common style of all plots: size, colours, title and note."""

import textwrap
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dog_breeds.console import atomic_path

WIDTH = 6.5  # inches; 650 pixels on a page, stored with twice the resolution
INK, GRAY, PALE, ACCENT = "#222222", "#6b6b6b", "#dddddd", "#117733"
# Paul Tol's "muted" colours, which colour-blind people can distinguish, and a matching tenth colour
COLORS = [
    "#332288",
    "#6699cc",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
]
RED = COLORS[7]  # for wrong predictions and unknown breeds
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": GRAY,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#eeeeee",
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 8,
}


def new_plot(height: float, title: str, note: str, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a Figure in the project's style, and its `columns` Axes side by side.

    The title is at the top, with the note below it. `height` is the height of the Axes in inches.
    """
    note = textwrap.fill(note, 88)
    head = 0.42 + 0.17 * (note.count("\n") + bool(note))  # inches for the title and the note
    with rc_context(STYLE):
        figure = Figure((WIDTH, head + height), layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, height / (head + height)), w_pad=0.1)
        figure.text(0.1 / WIDTH, 1 - 0.1 / (head + height), title, size=13, weight="bold", va="top")
        figure.text(
            0.1 / WIDTH,
            1 - 0.36 / (head + height),
            note,
            size=9.5,
            color=GRAY,
            va="top",
            linespacing=1.3,
        )
        return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, 1300 pixels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
