"""The classification head: hyper-parameter search, training, and what is fitted on its logits and
features afterwards. NumPy only.

scikit-learn's LogisticRegression would do for a head without an inner layer. On 1,700 views of the
ten breeds it is as accurate in cross-validation (96.6 %, the head 96.3 %, C = 0.01), with the same
cross-entropy (0.096), and takes 0.4 of the time. But a search takes seconds, an inner layer and
dropout need this module anyway, and scikit-learn with SciPy has 195 MB, as much as the rest of
.venv-serving. Source: benchmarks/logistic_regression.py.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from dog_breeds import recipe
from dog_breeds.learning.features import Examples, join
from dog_breeds.learning.metrics import accuracy, cross_entropy, fit_temperature, log_softmax
from dog_breeds.learning.rules import NOTE, Rules, fit_rules
from dog_breeds.workers import in_threads


class Classifier(NamedTuple):
    """What training finds: all that a model has beside the backbone."""

    weights: list[np.ndarray]  # of the head, as in `first_weights`, divided by the temperature
    rules: Rules
    means: np.ndarray  # float32 [classes, 2048]: mean features of each class, of length 1
    # Kernel [2048, 1] and bias [1] of a score: below 0, a picture seems to be turned
    upright: list[np.ndarray]
    turned_noticed: float  # share of turned pictures, held out, whose score is below 0

    @property
    def temperature(self) -> float:
        """The divisor that is in the weights."""
        return self.rules.temperature

    @property
    def threshold(self) -> float:
        """The score from which a picture counts as a known breed."""
        return self.rules.threshold


class Search(NamedTuple):
    """What `search` finds."""

    trials: list[dict]  # the combinations of the grid, lowest validation loss first
    finalists: list[dict]  # the cross-validated ones, the winner first
    weights: list[np.ndarray]  # the winner's, trained on training and validation images
    # The winner's for each row of both, while the row's image was held out
    held_out_logits: np.ndarray
    labels: np.ndarray  # of these rows

    @property
    def winner(self) -> dict:
        """The settings that training chose, with what they gave in cross-validation."""
        return self.finalists[0]


# --- Training -------------------------------------------------------------------------------------


def first_weights(
    inner_size: int, classes: int, size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return kernel [in, out] and bias [out] of each layer, drawn as in Glorot and Bengio 2010;
    inner_size 0: one.
    """
    widths = [size, *([inner_size] if inner_size else []), classes]
    weights = []
    for a, b in itertools.pairwise(widths):
        limit = (6 / (a + b)) ** 0.5
        weights += [rng.uniform(-limit, limit, (a, b)).astype(np.float32), np.zeros(b, np.float32)]
    return weights


def apply_head(weights: Sequence[np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return the logits [n, classes] of features [n, 2048] for weights as `first_weights` orders
    them.
    """
    *inner, kernel, bias = weights
    if inner:
        features = np.maximum(features @ inner[0] + inner[1], 0)
    return features @ kernel + bias


def slope(weights: Sequence[np.ndarray], features: np.ndarray, label: int) -> np.ndarray:
    """Return how much a class's logit rises with each of the features [2048] of one picture:
    [2048].
    """
    *inner, kernel, _ = weights
    return (
        inner[0] @ (kernel[:, label] * (features @ inner[0] + inner[1] > 0))
        if inner
        else kernel[:, label]
    )


def train_head(
    train: Examples,
    trial: dict,
    classes: int,
    seed: int,
    epochs: int,
    validation: Examples | None = None,
) -> tuple[dict, list[np.ndarray]]:
    """Train one head for so many epochs: AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), the
    rate along a cosine.

    `trial` has learning_rate, inner_size and dropout. Returns it with its results added, those of
    every epoch as `history`, and the weights. Validation losses are those at the best temperature
    of the last epoch: a head is not to win by being surer, which calibration does for all.
    """
    rng = np.random.default_rng(seed)
    # Each class counts the same, however many its pictures
    importance = len(train.labels) / np.maximum(
        classes * np.bincount(train.labels, minlength=classes), 1
    )
    importance = importance.astype(np.float32)
    weights = first_weights(trial["inner_size"], classes, train.features.shape[1], rng)
    decay = min(recipe.WEIGHT_DECAY / len(train.labels), recipe.MAX_DECAY)
    moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
    steps, step, history, logits = epochs * -(-len(train.labels) // recipe.BATCH_SIZE), 0, [], []
    for epoch in range(1, epochs + 1):
        order, loss = rng.permutation(len(train.labels)), 0.0
        for rows in np.split(order, range(recipe.BATCH_SIZE, len(order), recipe.BATCH_SIZE)):
            rate = trial["learning_rate"] * (1 + np.cos(np.pi * step / steps)) / 2
            step += 1
            batch = train.features[rows], train.labels[rows], importance[train.labels[rows]]
            batch_loss, gradients = gradients_of(weights, *batch, trial["dropout"], rng)
            loss += batch_loss * len(rows) / len(order)
            for weight, gradient, moment in zip(weights, gradients, moments, strict=True):
                adamw(weight, gradient, *moment, rate, decay, step)
        history.append({"epoch": epoch, "loss": loss})
        if validation:
            logits.append(apply_head(weights, validation.features))
    if validation:
        temperature = fit_temperature(logits[-1], validation.labels)
        for entry, these in zip(history, logits, strict=True):
            entry["val_loss"] = cross_entropy(these / temperature, validation.labels)
            entry["val_accuracy"] = accuracy(these, validation.labels)
    return trial | history[-1] | {"seed": seed, "history": history}, weights


def gradients_of(
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    importance: np.ndarray,
    dropout: float,
    rng: np.random.Generator,
) -> tuple[float, list[np.ndarray]]:
    """Return the cross entropy of a batch, each row as important as given, and its gradients by the
    weights.

    Dropout comes before the last layer.
    """
    *inner, kernel, bias = weights
    hidden = np.maximum(x @ inner[0] + inner[1], 0) if inner else x
    kept = (rng.random(hidden.shape, np.float32) >= dropout) / np.float32(1 - dropout)
    dropped = hidden * kept
    logarithms, rows = log_softmax(dropped @ kernel + bias), np.arange(len(x))
    error = np.exp(logarithms)
    error[rows, labels] -= 1
    error *= importance[:, None] / np.float32(len(x))
    gradients = [dropped.T @ error, error.sum(axis=0)]
    if inner:
        inner_error = (error @ kernel.T) * kept * (hidden > 0)
        gradients = [x.T @ inner_error, inner_error.sum(axis=0), *gradients]
    return -float((importance * logarithms[rows, labels]).mean()), gradients


def adamw(
    weight: np.ndarray,
    gradient: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    rate: float,
    decay: float,
    step: int,
) -> None:
    """Take one step of AdamW in place, with its usual constants; `m` and `v` are the running
    moments.
    """
    m += 0.1 * (gradient - m)
    gradient *= gradient
    v += 0.001 * (gradient - v)
    scale = np.sqrt(v / (1 - 0.999**step))
    scale += 1e-7
    np.divide(m, scale, out=scale)
    scale *= rate / (1 - 0.9**step)
    weight *= 1 - rate * decay
    weight -= scale


def epochs_for(rows: int, steps: int, epochs: int) -> int:
    """Return the epochs that make at least so many steps: a small data set is passed more often."""
    return max(epochs, -(-steps // -(-rows // recipe.BATCH_SIZE)))


# --- The search -----------------------------------------------------------------------------------


def search(
    train: Examples,
    validation: dict[str, Examples],
    grid: dict[str, Sequence[float]],
    classes: int,
    seed: int,
) -> Search:
    """Train a head for every combination of the grid, and cross-validate the best of each inner
    size; choose by loss.

    The trials are short, and a few hundred validation pictures are too few to tell the best of them
    apart: the finalists are trained longer, and judged on all the pictures of both sets. The winner
    is then trained on both.
    """
    held_out = join(*validation.values())
    print("learning rate  inner size  dropout  epochs  val loss  val accuracy", flush=True)

    def show(result: dict) -> dict:
        print("{learning_rate:13.1e}  {inner_size:10d}  {dropout:7.1f}".format(**result), end="  ")
        print("{epoch:6d}  {val_loss:8.4f}  {val_accuracy:12.4f}".format(**result), flush=True)
        return result

    def by_loss(result: dict) -> float:
        return result["val_loss"]

    epochs = epochs_for(len(train.labels), recipe.TRIAL_STEPS, recipe.TRIAL_EPOCHS)
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    # A thread for each head does twice as much as all threads for one
    with threadpool_limits(1, "blas"):
        heads = in_threads(
            lambda trial: train_head(train, trial, classes, seed, epochs, held_out)[0], settings
        )
        trials = [{"trial": number} | show(trial) for number, trial in enumerate(heads)]
    trials.sort(key=by_loss)
    print(f"the best of each inner size, in {recipe.FOLDS}-fold cross-validation:", flush=True)
    both = join(train, held_out)
    finalists, logits = [], {}
    for size in grid["inner_size"]:
        best = next(trial for trial in trials if trial["inner_size"] == size)
        trial = {name: best[name] for name in ("trial", *grid)}
        result, logits[size] = cross_validate(both, trial, classes, seed)
        finalists.append(show(result))
    finalists.sort(key=by_loss)
    winner = finalists[0]
    _, weights = train_head(both, winner, classes, seed, winner["epoch"])
    return Search(trials, finalists, weights, logits[winner["inner_size"]], both.labels)


def cross_validate(
    examples: Examples, trial: dict, classes: int, seed: int
) -> tuple[dict, np.ndarray]:
    """Train a head recipe.FOLDS times, each time without another part of the images, and judge it
    on that part.

    Returns the trial with its epochs, val_loss (at the best temperature) and val_accuracy over all
    images, and for every row the logits [n, classes] of the head that has not seen its image.
    """
    part_of_row = folds(examples, seed)
    epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
    logits = np.empty((len(examples.labels), classes), np.float32)

    def train_without(part: int) -> list[np.ndarray]:
        train = Examples(*(column[part_of_row != part] for column in examples))
        return train_head(train, trial, classes, seed + part, epochs)[1]

    with threadpool_limits(1, "blas"):
        for part, weights in enumerate(in_threads(train_without, range(recipe.FOLDS))):
            logits[part_of_row == part] = apply_head(
                weights, examples.features[part_of_row == part]
            )
    temperature = fit_temperature(logits, examples.labels)
    results = {
        "epoch": epochs,
        "val_loss": cross_entropy(logits / temperature, examples.labels),
        "val_accuracy": accuracy(logits, examples.labels),
    }
    return trial | results, logits


def folds(examples: Examples, seed: int) -> np.ndarray:
    """Return the part of each row, 0 to recipe.FOLDS - 1: all rows of an image in one, each class
    spread over all.
    """
    names, first = np.unique(examples.images, return_index=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    by_class = shuffled[np.argsort(examples.labels[first][shuffled], kind="stable")]
    parts = np.empty(len(names), int)
    parts[by_class] = np.arange(len(names)) % recipe.FOLDS
    return parts[np.searchsorted(names, examples.images)]


# --- What is fitted on a trained head -------------------------------------------------------------


def fit_classifier(
    train: Examples,
    validation: dict[str, Examples],
    upright: Examples,
    found: Search,
    seed: int,
    outside: tuple[Examples, str] | None = None,
) -> Classifier:
    """Calibrate the head that a search found, and fit the rules for unknown breeds, for candidates
    and for turned photos.

    The rules are fitted on `outside`, photos that are not in the training set, with a text that
    says which ones. Without them, held-out whole photos take their place: those of the training
    and the validation part, each by the head of the cross-validation that had not seen it.
    """
    if outside:
        examples, fitted_on = outside
        logits = apply_head(found.weights, examples.features)
        rules = fit_rules(logits, examples.labels, recipe.OUTSIDE_KNOWN_SHARE, fitted_on)
    else:
        rows = whole_photo_rows(train, validation)
        logits, labels = found.held_out_logits[rows], found.labels[rows]
        fitted_on = f"{rows.sum():,} held-out photos of the training set"
        rules = fit_rules(logits, labels, recipe.KNOWN_SHARE, fitted_on, NOTE)
    weights = calibrated_weights(found.weights, rules.temperature)
    return Classifier(weights, rules, class_means(train), *fit_upright(upright, seed))


def whole_photo_rows(train: Examples, validation: dict[str, Examples]) -> np.ndarray:
    """Return which rows of a search show whole photos, bool [n].

    A search joins the training views, crops first, and the sets of the validation part.
    """
    images = len(np.unique(train.images))
    training = np.arange(len(train.labels)) >= recipe.CROP_VIEWS * images
    others = [
        np.full(len(examples.labels), kind == "whole_photos")
        for kind, examples in validation.items()
    ]
    return np.concatenate([training, *others])


def calibrated_weights(weights: Sequence[np.ndarray], temperature: float) -> list[np.ndarray]:
    """Return the weights of a head whose logits are divided by the temperature."""
    return [*weights[:-2], *(array / np.float32(temperature) for array in weights[-2:])]


def fit_upright(examples: Examples, seed: int) -> tuple[list[np.ndarray], float]:
    """Return kernel [2048, 1] and bias [1] of a score that tells upright pictures (label 1) from
    turned ones (0).

    It is at least 0 for recipe.UPRIGHT_SHARE of the upright ones while they were held out. Returns
    also the share of the turned ones for which it is below 0.
    """
    result, logits = cross_validate(examples, recipe.PLAIN_TRIAL, 2, seed)
    scores = logits[:, 1] - logits[:, 0]
    threshold = np.quantile(scores[examples.labels == 1], 1 - recipe.UPRIGHT_SHARE)
    _, (kernel, bias) = train_head(examples, recipe.PLAIN_TRIAL, 2, seed, result["epoch"])
    score = [kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1] - np.float32(threshold)]
    return score, float((scores[examples.labels == 0] < threshold).mean())


def turn_rule(classifier: Classifier) -> dict:
    """Return what a file and a report say of how turned pictures are noticed."""
    return {
        "score": "upright",
        "threshold": 0.0,
        "upright_pictures_taken_as_upright": recipe.UPRIGHT_SHARE,
        "turned_pictures_noticed": classifier.turned_noticed,
    }


def class_means(examples: Examples) -> np.ndarray:
    """Return the mean features of each class, scaled to length 1: float32 [classes, 2048]."""
    classes = range(examples.labels.max() + 1)
    means = np.stack(
        [examples.features[examples.labels == label].mean(axis=0) for label in classes]
    )
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def similarity(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the cosine between features [n, 2048] and the nearest class mean: [n], 0..1, low for
    unknown breeds.

    The nearest mean as in Mensink et al. 2013 (doi:10.1109/TPAMI.2013.83). Files of earlier
    versions reject unknown breeds by it. It rejects what is no dog, but few dogs of other breeds.
    """
    return (features @ means.T).max(axis=1) / np.maximum(np.linalg.norm(features, axis=1), 1e-6)
