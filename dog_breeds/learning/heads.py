"""The classification head: hyper-parameter search, training, calibration, and the rules for unknown
breeds, candidates and turned photos. NumPy only.

scikit-learn's LogisticRegression could replace a head without an inner layer. On 1,700 views of
the ten breeds, its cross-validated accuracy is 96.6 % (with C = 0.01) and the head's is 96.3 %. The
cross-entropy is the same (0.096), and LogisticRegression takes 0.4 of the time. This module is used
for three reasons: a search takes only seconds, inner layers and dropout need this module anyway,
and scikit-learn with SciPy takes 195 MB, as much as the rest of .venv-serving.
Source: benchmarks/logistic_regression.py.
"""

import itertools
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from dog_breeds import recipe
from dog_breeds.learning.features import Examples, join
from dog_breeds.learning.metrics import accuracy, cross_entropy, fit_temperature, log_softmax
from dog_breeds.learning.rules import NOTE, Rules, fit_rules
from dog_breeds.workers import map_in_threads


class Classifier(NamedTuple):
    """The result of training: all parts of a model except the backbone."""

    weights: list[np.ndarray]  # as in `first_weights`; last layer divided by temperature
    rules: Rules
    means: np.ndarray  # float32 [classes, 2048]: mean features of each class, length 1
    # Kernel [2048, 1] and bias [1] of a score; an image with a score below 0 counts as turned
    upright: list[np.ndarray]
    turned_noticed: float  # share of held-out turned images with a score below 0

    @property
    def temperature(self) -> float:
        """The temperature by which the weights of the last layer are already divided."""
        return self.rules.temperature

    @property
    def threshold(self) -> float:
        """The lowest score that counts as a known breed."""
        return self.rules.threshold


class Search(NamedTuple):
    """The result of `search`."""

    trials: list[dict]  # all combinations of the grid, lowest validation loss first
    finalists: list[dict]  # the cross-validated combinations, the winner first
    weights: list[np.ndarray]  # of the winner, trained on training and validation images
    # Logits [n, classes] of the training and validation rows. For each row they come from the head
    # of the winner's cross-validation that was trained without the row's image.
    held_out_logits: np.ndarray
    labels: np.ndarray  # int [n], of the same rows

    @property
    def winner(self) -> dict:
        """The chosen settings with their results in cross-validation."""
        return self.finalists[0]


# --- Training -------------------------------------------------------------------------------------


def first_weights(
    inner_size: int, classes: int, size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the initial kernel [in, out] and bias [out] of each layer (Glorot and Bengio 2010).

    There are two layers, or a single one if `inner_size` is 0. `size` is the number of features.
    """
    widths = [size, *([inner_size] if inner_size else []), classes]
    weights = []
    for a, b in itertools.pairwise(widths):
        limit = (6 / (a + b)) ** 0.5
        weights += [rng.uniform(-limit, limit, (a, b)).astype(np.float32), np.zeros(b, np.float32)]
    return weights


def apply_head(weights: Sequence[np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return the logits [n, classes] of features [n, 2048].

    `weights` are in the order of `first_weights`.
    """
    *inner, kernel, bias = weights
    if inner:
        features = np.maximum(features @ inner[0] + inner[1], 0)
    return features @ kernel + bias


def logit_gradient(weights: Sequence[np.ndarray], features: np.ndarray, label: int) -> np.ndarray:
    """Return the gradient [2048] of a class's logit with respect to one image's features [2048]."""
    *inner, kernel, _ = weights
    if not inner:
        return kernel[:, label]
    active = features @ inner[0] + inner[1] > 0  # the RELU passes a gradient to these units only
    return inner[0] @ (kernel[:, label] * active)


def train_head(
    train: Examples,
    trial: dict,
    classes: int,
    seed: int,
    epochs: int,
    validation: Examples | None = None,
) -> tuple[dict, list[np.ndarray]]:
    """Train one head for `epochs` epochs with AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).

    The learning rate follows a cosine to 0. `trial` has learning_rate, inner_size and dropout.
    Return the trial with the results of the last epoch added, and the weights. The results of all
    epochs are in `history`. Validation losses are computed at the best temperature of the last
    epoch. Calibration sets the confidence of every head later, so confidence must not decide
    which head wins.
    """
    rng, n = np.random.default_rng(seed), len(train.labels)
    # All classes have the same total weight in the loss, however many images they have
    counts = np.bincount(train.labels, minlength=classes)
    importance = (n / np.maximum(classes * counts, 1)).astype(np.float32)[train.labels]
    weights = first_weights(trial["inner_size"], classes, train.features.shape[1], rng)
    decay = min(recipe.WEIGHT_DECAY / n, recipe.MAX_DECAY)
    moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
    batch_ends = range(recipe.BATCH_SIZE, n, recipe.BATCH_SIZE)
    steps, step, history, logits = epochs * (len(batch_ends) + 1), 0, [], []
    for epoch in range(1, epochs + 1):
        loss = 0.0
        for rows in np.split(rng.permutation(n), batch_ends):
            rate = trial["learning_rate"] * (1 + np.cos(np.pi * step / steps)) / 2
            step += 1
            batch = train.features[rows], train.labels[rows], importance[rows]
            batch_loss, gradients = gradients_of(weights, *batch, trial["dropout"], rng)
            loss += batch_loss * len(rows) / n
            for weight, gradient, moment in zip(weights, gradients, moments, strict=True):
                adamw(weight, gradient, *moment, rate, decay, step)
        history.append({"epoch": epoch, "loss": loss})
        if validation:
            logits.append(apply_head(weights, validation.features))
    if validation:
        temperature = fit_temperature(logits[-1], validation.labels)
        for entry, epoch_logits in zip(history, logits, strict=True):
            entry |= validation_metrics(epoch_logits, validation.labels, temperature)
    return trial | history[-1] | {"seed": seed, "history": history}, weights


def validation_metrics(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict:
    """Return the cross-entropy at a temperature, and the accuracy, as entries for a report."""
    return {
        "val_loss": cross_entropy(logits / temperature, labels),
        "val_accuracy": accuracy(logits, labels),
    }


def gradients_of(
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    importance: np.ndarray,
    dropout: float,
    rng: np.random.Generator,
) -> tuple[float, list[np.ndarray]]:
    """Return the weighted cross-entropy of a batch, and its gradient for each array of `weights`.

    `importance` [n] weights the rows. Dropout is applied to the input of the last layer.
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
    """Update `weight`, `m` and `v` in place with one step of AdamW.

    `m` and `v` are the running means of the gradient and of its square. The constants are the usual
    ones: betas 0.9 and 0.999, epsilon 1e-7. The function overwrites `gradient`.
    """
    m += 0.1 * (gradient - m)
    gradient *= gradient  # in place: the caller does not use the gradient again
    v += 0.001 * (gradient - v)
    scale = np.sqrt(v / (1 - 0.999**step))
    scale += 1e-7
    np.divide(m, scale, out=scale)
    scale *= rate / (1 - 0.9**step)
    weight *= 1 - rate * decay
    weight -= scale


def epochs_for(rows: int, steps: int, epochs: int) -> int:
    """Return the number of epochs that gives at least `steps` steps, and at least `epochs`.

    A small dataset needs more epochs than a large one for the same number of steps.
    """
    return max(epochs, -(-steps // -(-rows // recipe.BATCH_SIZE)))


# --- The search -----------------------------------------------------------------------------------


def search(
    train: Examples,
    validation: dict[str, Examples],
    grid: dict[str, Sequence[float]],
    classes: int,
    seed: int,
) -> Search:
    """Choose the settings with the lowest validation loss, and train a head with these settings.

    The search first trains a head for every combination of the grid. It then cross-validates the
    best combination of each inner size. The first trials are short, and a few hundred validation
    images are too few to separate the best trials. The finalists are therefore trained longer and
    evaluated on all training and validation images. The final head is trained on both sets.
    """
    held_out = join(*validation.values())
    print("learning rate  inner size  dropout  epochs  val loss  val accuracy", flush=True)

    def show(result: dict) -> dict:
        row = "{learning_rate:13.1e}  {inner_size:10d}  {dropout:7.1f}  {epoch:6d}  "
        row += "{val_loss:8.4f}  {val_accuracy:12.4f}"
        print(row.format(**result), flush=True)
        return result

    epochs = epochs_for(len(train.labels), recipe.TRIAL_STEPS, recipe.TRIAL_EPOCHS)
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    # One BLAS thread for each of several heads is twice as fast as all threads for one head
    with threadpool_limits(1, "blas"):
        results = map_in_threads(
            lambda trial: train_head(train, trial, classes, seed, epochs, held_out)[0], settings
        )
        trials = [{"trial": number} | show(result) for number, result in enumerate(results)]
    trials.sort(key=itemgetter("val_loss"))
    print(f"the best of each inner size, in {recipe.FOLDS}-fold cross-validation:", flush=True)
    both = join(train, held_out)
    finalists, logits = [], {}
    for size in grid["inner_size"]:
        best = next(trial for trial in trials if trial["inner_size"] == size)
        trial = {name: best[name] for name in ("trial", *grid)}
        result, logits[size] = cross_validate(both, trial, classes, seed)
        finalists.append(show(result))
    finalists.sort(key=itemgetter("val_loss"))
    winner = finalists[0]
    _, weights = train_head(both, winner, classes, seed, winner["epoch"])
    return Search(trials, finalists, weights, logits[winner["inner_size"]], both.labels)


def cross_validate(
    examples: Examples, trial: dict, classes: int, seed: int
) -> tuple[dict, np.ndarray]:
    """Train recipe.FOLDS heads, each without one fold, and evaluate each head on this fold.

    Return the trial with its epochs, val_loss (at the best temperature) and val_accuracy over all
    images. Return also the logits [n, classes]: each row comes from the head that was trained
    without the row's image.
    """
    fold_of_row = folds(examples, seed)
    epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
    logits = np.empty((len(examples.labels), classes), np.float32)

    def train_without(fold: int) -> list[np.ndarray]:
        train = examples.take(fold_of_row != fold)
        return train_head(train, trial, classes, seed + fold, epochs)[1]

    with threadpool_limits(1, "blas"):
        for fold, weights in enumerate(map_in_threads(train_without, range(recipe.FOLDS))):
            rows = fold_of_row == fold
            logits[rows] = apply_head(weights, examples.features[rows])
    temperature = fit_temperature(logits, examples.labels)
    results = validation_metrics(logits, examples.labels, temperature)
    return trial | {"epoch": epochs} | results, logits


def folds(examples: Examples, seed: int) -> np.ndarray:
    """Return the fold of each row, int [n], from 0 to recipe.FOLDS - 1.

    All rows of an image are in the same fold. The images of each class are spread evenly.
    """
    names, first = np.unique(examples.images, return_index=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    # Sorted by class, so that each class gets all folds in turn; a stable sort keeps the shuffle
    by_class = shuffled[np.argsort(examples.labels[first][shuffled], kind="stable")]
    fold_of_image = np.empty(len(names), int)
    fold_of_image[by_class] = np.arange(len(names)) % recipe.FOLDS
    return fold_of_image[np.searchsorted(names, examples.images)]


# --- What is fitted on a trained head -------------------------------------------------------------


def fit_classifier(
    train: Examples,
    validation: dict[str, Examples],
    upright: Examples,
    found: Search,
    seed: int,
    outside: tuple[Examples, str] | None = None,
) -> Classifier:
    """Calibrate the head of a search, and fit the rules for unknown breeds, candidates and turned
    photos.

    `outside` holds photos that are not in the training set, and a text that describes them. The
    rules are fitted on these photos. Without `outside`, the rules are fitted on the whole photos of
    the training and validation parts. The logits of each such photo come from the head of the
    cross-validation that was trained without the photo. The rule for turned photos always uses
    `upright`.
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
    """Return which rows of a search are whole photos, bool [n].

    A search joins the training views and then the validation sets. Crops come first among the
    training views.
    """
    crops = recipe.CROP_VIEWS * len(np.unique(train.images))
    validation_rows = [
        np.full(len(examples.labels), kind == "whole_photos")
        for kind, examples in validation.items()
    ]
    return np.concatenate([np.arange(len(train.labels)) >= crops, *validation_rows])


def calibrated_weights(weights: Sequence[np.ndarray], temperature: float) -> list[np.ndarray]:
    """Return the weights of a head that outputs the same logits divided by the temperature."""
    return [*weights[:-2], *(array / np.float32(temperature) for array in weights[-2:])]


def fit_upright(examples: Examples, seed: int) -> tuple[list[np.ndarray], float]:
    """Fit a linear score that separates upright images (label 1) from turned images (label 0).

    Return kernel [2048, 1] and bias [1] of the score. The bias is chosen so that a share of
    recipe.UPRIGHT_SHARE of held-out upright images scores at least 0. Return also the share of
    held-out turned images that score below 0.
    """
    result, logits = cross_validate(examples, recipe.PLAIN_TRIAL, 2, seed)
    scores = logits[:, 1] - logits[:, 0]
    threshold = np.quantile(scores[examples.labels == 1], 1 - recipe.UPRIGHT_SHARE)
    _, (kernel, bias) = train_head(examples, recipe.PLAIN_TRIAL, 2, seed, result["epoch"])
    score = [kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1] - np.float32(threshold)]
    return score, float((scores[examples.labels == 0] < threshold).mean())


def turn_rule(classifier: Classifier) -> dict:
    """Return the facts about the rule for turned images, for a model file and a report."""
    return {
        "score": "upright",
        "threshold": 0.0,
        "upright_pictures_taken_as_upright": recipe.UPRIGHT_SHARE,
        "turned_pictures_noticed": classifier.turned_noticed,
    }


def class_means(examples: Examples) -> np.ndarray:
    """Return the mean features of each class, scaled to length 1, float32 [classes, 2048]."""
    rows_by_class = (examples.labels == label for label in range(examples.labels.max() + 1))
    means = np.stack([examples.features[rows].mean(axis=0) for rows in rows_by_class])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def similarity(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the cosine between features [n, 2048] and the nearest class mean: [n], 0..1.

    The cosine is low for unknown breeds. The method is the nearest class mean (Mensink et al. 2013,
    doi:10.1109/TPAMI.2013.83). Model files of earlier versions reject unknown breeds by this score.
    The score rejects images without a dog, but few dogs of other breeds.
    """
    return (features @ means.T).max(axis=1) / np.maximum(np.linalg.norm(features, axis=1), 1e-6)
