"""Plots of a training run, written by training.py and explained in notebook.ipynb.

training.py computes the numbers, and these functions draw them. Each plot_ function takes the
inputs and results of the steps of training.py, and returns an independent matplotlib Figure.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from dog_breeds.data.dataset import display_name
from dog_breeds.learning.heads import Classifier, Search
from dog_breeds.learning.metrics import (
    auroc,
    expected_calibration_error,
    reliability,
    wilson_interval,
)
from dog_breeds.learning.plot_style import ACCENT, COLORS, GRAY, INK, PALE, RED, new_plot, save_plot

SHADES = (COLORS[6], COLORS[3], COLORS[0])  # light to dark, for increasing values


def save_plots(
    found: Search,
    classifier: Classifier,
    results: dict,
    outputs: dict,
    labels: np.ndarray,
    folder: Path,
) -> None:
    """Write all plots of a training run as PNG files into a folder.

    `results` and `outputs` are the return values of training.measure_on_test. `labels` are those of
    the test images.
    """
    classes, photos = list(results["crops"]["recall"]), outputs["whole_photos"]
    figures = {
        "training_curves": plot_training_curves(found.trials, found.winner),
        "search": plot_hyper_parameters(found.trials, found.winner),
        "confusion": plot_confusion(results["whole_photos"], classes, "Test: whole photos"),
        "precision_and_recall": plot_breeds(results["whole_photos"]),
        "reliability": plot_reliability(photos["logits"], labels, classifier.temperature),
        "unknown_breeds": plot_unknown_breeds(
            photos["scores"], outputs["unknown"]["scores"], classifier.threshold
        ),
    }
    for name, figure in figures.items():
        save_plot(figure, folder / f"{name}.png")


# --- the search -----------------------------------------------------------------------------------


def plot_training_curves(trials: Sequence[dict], winner: dict, measure: str = "val_loss") -> Figure:
    """Plot the validation loss of every head of the search by epoch, with a panel for each inner
    size.

    `measure` is "val_loss" or "val_accuracy".
    """
    sizes = sorted({trial["inner_size"] for trial in trials})
    rates = sorted({trial["learning_rate"] for trial in trials})
    note = (
        f"A line for each of {len(trials)} heads, the thick one with the chosen settings. "
        "Learning rates fall to nothing with the last epoch."
    )
    figure, all_axes = new_plot(
        2.9, f"{readable_name(measure).capitalize()} while training", note, len(sizes)
    )
    for axes, size in zip(all_axes, sizes, strict=True):
        for trial in (trial for trial in trials if trial["inner_size"] == size):
            chosen = trial["trial"] == winner["trial"]
            values = [epoch[measure] for epoch in trial["history"]]
            style = {"linewidth": 2.2, "zorder": 3} if chosen else {"linewidth": 1, "alpha": 0.65}
            color = color_of(rates, trial["learning_rate"])
            axes.plot(range(1, len(values) + 1), values, color=color, **style)
        axes.set_title(f"inner layer of {size}" if size else "no inner layer", size=10, color=INK)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.sharex(all_axes[0])
    share_scale(all_axes, measure)
    if measure == "val_accuracy":  # else the first epochs of slow heads would fill the plot
        values = [epoch[measure] for trial in trials for epoch in trial["history"]]
        all_axes[0].set_ylim(np.quantile(values, 0.1) - 0.02, 1.005)
    lines = [Line2D([], [], color=color_of(rates, rate), label=f"{rate:g}") for rate in rates]
    all_axes[-1].legend(
        handles=lines, title="learning rate", frameon=False, fontsize=9, title_fontsize=9
    )
    return figure


def plot_hyper_parameters(trials: Sequence[dict], winner: dict) -> Figure:
    """Plot the validation loss of all trials against each hyper-parameter, in a panel each.

    Lines join trials that differ only in the hyper-parameter of the panel.
    """
    parameters = ("learning_rate", "inner_size", "dropout")
    rates = sorted({trial["learning_rate"] for trial in trials})
    note = (
        "Each dot is a trained head, coloured by learning rate; the ring is what "
        "cross-validation chose. A line joins heads that differ in this setting alone: where "
        "lines rise or fall together, the setting matters."
    )
    figure, all_axes = new_plot(2.9, "Validation loss by setting", note, len(parameters))
    for axes, parameter in zip(all_axes, parameters, strict=True):
        values = sorted({trial[parameter] for trial in trials})
        lines: dict[tuple, list[tuple[int, float]]] = {}
        for trial in trials:
            point = values.index(trial[parameter]), trial["val_loss"]
            color = color_of(rates, trial["learning_rate"])
            axes.plot(*point, "o", color=color, markersize=6, markeredgecolor="white", alpha=0.9)
            if trial["trial"] == winner["trial"]:
                axes.plot(
                    *point,
                    "o",
                    color="none",
                    markersize=12,
                    markeredgecolor=INK,
                    markeredgewidth=1.2,
                )
            others = tuple(trial[name] for name in parameters if name != parameter)
            lines.setdefault(others, []).append(point)
        for points in lines.values():
            axes.plot(*zip(*sorted(points), strict=True), color=PALE, linewidth=1, zorder=1)
        axes.set_xticks(range(len(values)), [f"{value:g}" if value else "none" for value in values])
        axes.set(xlabel=readable_name(parameter), xlim=(-0.5, len(values) - 0.5))
    share_scale(all_axes, "val_loss")
    return figure


def share_scale(all_axes: Sequence[Axes], measure: str) -> None:
    """Give panels side by side the same vertical axis and grid.

    The axis is logarithmic for the loss and in per cent for the accuracy.
    """
    for axes in all_axes:
        axes.sharey(all_axes[0])
        axes.tick_params(labelleft=axes is all_axes[0])
        axes.grid(axis="y")
    all_axes[0].set_ylabel(readable_name(measure))
    if measure == "val_accuracy":
        all_axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    else:
        all_axes[0].set_yscale("log")
        low, high = all_axes[0].get_ylim()
        steps = (1, 2, 5) if high < 1000 * low else (1,)  # more labels would overlap
        all_axes[0].yaxis.set(major_locator=LogLocator(subs=steps), minor_locator=NullLocator())
        all_axes[0].yaxis.set_major_formatter("{x:g}")


def readable_name(name: str) -> str:
    """Return the name of a setting or a measure as words, such as "validation loss"."""
    return name.replace("val_", "validation ").replace("_", " ")


def color_of(values: Sequence[float], value: float) -> tuple[float, ...]:
    """Return the RGBA colour of one of the sorted values; greater values are darker."""
    return LinearSegmentedColormap.from_list("shades", SHADES)(
        values.index(value) / max(len(values) - 1, 1)
    )


# --- the test -------------------------------------------------------------------------------------


def plot_confusion(result: dict, classes: Sequence[str], title: str) -> Figure:
    """Plot the confusion matrix; `result` is the return value of metrics.evaluate."""
    matrix, n = np.array(result["confusion_matrix"]), len(classes)
    low, high = result["accuracy_interval_95"]
    note = (
        f"{matrix.trace()} of {matrix.sum()} images are right, {result['accuracy']:.1%} (95 % "
        f"interval {low:.1%} to {high:.1%})."
    )
    if result["most_confused"]:
        pair = result["most_confused"][0]
        note += (
            f" Most confused: {display_name(pair['true'])} taken for "
            f"{display_name(pair['predicted'])}."
        )
    figure, [axes] = new_plot(5.2, title, note)
    # Colour each cell by its share of the true breed's images. Errors are rarer, so they reach the
    # full colour at 30 %.
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(n, dtype=bool)
    for cells, color, full in ((diagonal, ACCENT, 1), (~diagonal, RED, 0.3)):
        colors = LinearSegmentedColormap.from_list("", ["white", color])
        values = np.ma.masked_where(~cells, share)
        axes.pcolormesh(values, cmap=colors, vmin=0, vmax=full, edgecolors=PALE, linewidth=0.6)
    for i, j in np.argwhere(matrix) if n <= 20 else ():  # in larger matrices, numbers do not fit
        color = "white" if share[i, j] > (0.5 if i == j else 0.15) else INK
        axes.text(j + 0.5, i + 0.5, matrix[i, j], ha="center", va="center_baseline", color=color)
    size = min(10, 300 / n)
    names, middle = [display_name(name) for name in classes], np.arange(n) + 0.5
    axes.set_xticks(middle, names, rotation=45, ha="right", rotation_mode="anchor", size=size)
    axes.set_yticks(middle, names, size=size)
    axes.tick_params(labelcolor=INK)
    axes.set(xlabel="predicted", ylabel="true", ylim=(n, 0), aspect="equal")
    axes.spines[:].set_visible(False)
    return figure


def plot_breeds(result: dict) -> Figure:
    """Plot precision and recall of each breed, with the worst breed first.

    `result` is the return value of metrics.evaluate.
    """
    precision, recall = result["precision"], result["recall"]
    breeds = sorted(recall, key=lambda breed: recall[breed] + precision[breed])
    note = (
        "Recall: of this breed's images, how many are recognised. Precision: of the images "
        "predicted as this breed, how many are right."
    )
    figure, [axes] = new_plot(0.3 * len(breeds) + 0.9, "Precision and recall by breed", note)
    for row, breed in enumerate(breeds):
        axes.plot([precision[breed], recall[breed]], [row, row], color=PALE, linewidth=3, zorder=1)
    for values, color, name, marker in (
        (precision, COLORS[0], "precision", "D"),
        (recall, ACCENT, "recall", "o"),
    ):
        points = [values[breed] for breed in breeds], range(len(breeds))
        axes.plot(
            *points, marker, color=color, markersize=7 - (marker == "D"), label=name, alpha=0.85
        )
    lowest = min([*precision.values(), *recall.values()])
    axes.set_yticks(range(len(breeds)), [display_name(breed) for breed in breeds])
    axes.set(ylim=(len(breeds) - 0.5, -0.5), xlim=(min(lowest - 0.02, 0.9), 1.005))
    axes.xaxis.set(
        major_formatter=PercentFormatter(1), major_locator=MaxNLocator(8, steps=[1, 2, 5, 10])
    )
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="x")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    return figure


def plot_reliability(logits: np.ndarray, labels: np.ndarray, temperature: float) -> Figure:
    """Plot accuracy against confidence before and after temperature scaling.

    `logits` [n, classes] are the logits after temperature scaling.
    """
    note = (
        "A disc for each bin of confidence, its area the number of images, the line its 95 % "
        "interval. On the dashed line a model that says 80 % is right in 80 % of the cases."
    )
    figure, all_axes = new_plot(3.4, "Can the probabilities be believed?", note, 2)
    panels = (
        ("before temperature scaling", logits * temperature),
        (f"after, temperature {temperature:.2f}", logits),
    )
    for axes, (name, panel_logits) in zip(all_axes, panels, strict=True):
        images, confidence, correct = reliability(panel_logits, labels).T
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle="--")
        for n, said, right in zip(images, confidence, correct, strict=True):
            if n:
                low, high = wilson_interval(right / n, n)
                axes.plot([said / n] * 2, [low, high], color=ACCENT, linewidth=1.2, alpha=0.6)
                axes.scatter(
                    said / n,
                    right / n,
                    s=12 + 400 * n / len(labels),
                    color=ACCENT,
                    alpha=0.6,
                    linewidth=0,
                )
        error = expected_calibration_error(panel_logits, labels)
        axes.set_title(f"{name}: error {error:.1%}", size=10, color=INK)
        axes.set(xlim=(0, 1.06), ylim=(0, 1.06), aspect="equal", xlabel="confidence")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid()
    all_axes[0].set_ylabel("share of right answers")
    return figure


def plot_unknown_breeds(known: np.ndarray, unknown: np.ndarray, threshold: float) -> Figure:
    """Plot histograms of the highest logits of photos of known and unknown breeds.

    `known` is [n] and `unknown` is [m]; m may be 0. A dashed line shows the threshold.
    """
    note = (
        "Right of the threshold a photo is taken as a known breed: "
        f"{np.mean(known >= threshold):.0%} of the known "
    )
    if len(unknown):
        note += (
            f"ones, {np.mean(unknown >= threshold):.0%} of the others. "
            f"AUROC {auroc(known, unknown):.3f}."
        )
    else:
        note += "ones. There are no photos of other breeds."
    figure, [axes] = new_plot(2.8, "Does the model know what it does not know?", note)
    bins = np.histogram_bin_edges(np.concatenate([known, unknown]), 25)
    for values, color, name in (
        (unknown, RED, "breeds it never saw"),
        (known, ACCENT, "its own breeds"),
    ):
        # Show shares, because the two groups differ in size
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(
            values,
            bins,
            weights=weights,
            color=color,
            alpha=0.7,
            label=f"{name}, {len(values)} photos",
        )
    axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--")
    axes.annotate(
        f" threshold {threshold:.2f}", (threshold, 1), xycoords=("data", "axes fraction"), va="top"
    )
    axes.set(
        xlabel="highest logit",
        ylabel="share of the photos",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.grid(axis="y")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    return figure
