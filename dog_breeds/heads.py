"""The head: trained on features, searched for, calibrated, told from unknown breeds, put on the backbone."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dog_breeds import recipe
from dog_breeds.console import written_whole
from dog_breeds.dataset import Task, weights_path
from dog_breeds.features import Examples, join, keras, tf
from dog_breeds.metrics import accuracy, cross_entropy, fit_temperature


class Classifier(NamedTuple):
    """What training finds: all that a model has beside the backbone."""

    weights: list[np.ndarray]  # of the head, as `build_head` orders them, divided by the temperature
    temperature: float
    means: np.ndarray  # float32 [classes, 2048]: mean features of each class, of length 1
    threshold: float  # similarity from which a picture counts as a known breed


class Search(NamedTuple):
    """What `search` finds."""

    trials: list[dict]  # the combinations of the grid, lowest validation loss first
    finalists: list[dict]  # the cross-validated ones, the winner first
    weights: list[np.ndarray]  # the winner's, trained on training and validation images
    held_out_logits: np.ndarray  # the winner's for each row of both, while the row's image was held out
    labels: np.ndarray  # of these rows

    @property
    def winner(self) -> dict:
        """The settings that training chose, with what they gave in cross-validation."""
        return self.finalists[0]


# --- Training --------------------------------------------------------------------------------------------------------


def build_head(inner_size: int, dropout: float, classes: int, feature_size: int = 2048) -> keras.Sequential:
    """Return the trainable layers: features [n, 2048] -> logits [n, classes]."""
    layers = [keras.Input((feature_size,))]
    if inner_size:
        layers.append(keras.layers.Dense(inner_size, activation="relu", name="inner"))
    layers += [keras.layers.Dropout(dropout, name="dropout"), keras.layers.Dense(classes, name="logits")]
    return keras.Sequential(layers)


def train_head(
    train: Examples, validation: Examples | None, trial: dict, classes: int, seed: int, epochs: int | None = None
) -> tuple[dict, list[np.ndarray]]:
    """Train one head until its validation loss has not fallen for PATIENCE epochs; without one, for `epochs`.

    `trial` has learning_rate, inner_size and dropout. Returns it with its results added (of the best epoch, and the
    history of all), and the best weights, which are means over epochs (Izmailov et al. 2018, arXiv:1803.05407).
    """
    keras.utils.set_random_seed(seed)
    head = build_head(trial["inner_size"], trial["dropout"], classes, train.features.shape[1])
    optimizer = keras.optimizers.AdamW(trial["learning_rate"], weight_decay=recipe.WEIGHT_DECAY)
    optimizer.build(head.trainable_variables)
    loss_function = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.LABEL_SMOOTHING)
    features, targets = tf.constant(train.features), tf.one_hot(train.labels, classes)
    if validation:
        validation = validation._replace(features=tf.constant(validation.features))

    @tf.function
    def run_epoch(order: tf.Tensor) -> tf.Tensor:
        total = 0.0
        for start in tf.range(0, tf.size(order), recipe.BATCH_SIZE):
            rows = order[start : start + recipe.BATCH_SIZE]
            with tf.GradientTape() as tape:
                loss = loss_function(tf.gather(targets, rows), head(tf.gather(features, rows), training=True))
            variables = head.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            total += loss * tf.cast(tf.size(rows), tf.float32)
        return total / tf.cast(tf.size(order), tf.float32)

    rng = np.random.default_rng(seed)
    history: list[dict] = []
    best, best_weights = {"val_loss": math.inf, "epoch": 0}, []
    recent: deque[list[tf.Tensor]] = deque(maxlen=recipe.AVERAGED_EPOCHS)
    while len(history) < (epochs or recipe.MAX_EPOCHS) and (
        validation is None or len(history) - best["epoch"] < recipe.PATIENCE
    ):
        history.append({"epoch": len(history) + 1, "loss": float(run_epoch(rng.permutation(len(features))))})
        recent.append([tf.identity(variable) for variable in head.trainable_variables])
        weights = [tf.add_n(same) / len(same) for same in zip(*recent, strict=True)]
        if validation:
            logits = apply_head(weights, validation.features)
            val_loss = float(loss_function(tf.one_hot(validation.labels, classes), logits))
            history[-1] |= {"val_loss": val_loss, "val_accuracy": accuracy(logits, validation.labels)}
            if val_loss < best["val_loss"]:
                best, best_weights = history[-1], weights
    best_weights = [weight.numpy() for weight in best_weights or weights]
    return trial | best | {"seed": seed, "history": history}, best_weights


def apply_head(weights: Sequence[np.ndarray | tf.Tensor], features: np.ndarray | tf.Tensor) -> np.ndarray:
    """Return the logits [n, classes] of features [n, 2048] for weights as `build_head` orders them.

    Not with NumPy, whose threads and TensorFlow's would get in each other's way between two epochs.
    """
    *inner, kernel, bias = weights
    if inner:
        features = tf.nn.relu(tf.matmul(features, inner[0]) + inner[1])
    return (tf.matmul(features, kernel) + bias).numpy()


# --- The search ------------------------------------------------------------------------------------------------------


def search(
    train: Examples, validation: dict[str, Examples], grid: dict[str, Sequence[float]], classes: int, seed: int
) -> Search:
    """Train a head for every combination of the grid, and cross-validate the best of each inner size; choose by loss.

    A few hundred validation pictures are too few to tell the best trials apart: the finalists are judged on all the
    pictures of both sets. The winner is then trained on both.
    """
    validation = join(*validation.values())
    print("learning rate  inner size  dropout  epoch  val loss  val accuracy", flush=True)

    def show(result: dict) -> dict:
        print("{learning_rate:13.1e}  {inner_size:10d}  {dropout:7.1f}".format(**result), end="  ")
        print("{epoch:5d}  {val_loss:8.4f}  {val_accuracy:12.4f}".format(**result), flush=True)
        return result

    def by_loss(result: dict) -> float:
        return result["val_loss"]

    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    trials = [show(train_head(train, validation, trial, classes, seed)[0]) for trial in settings]
    trials = sorted(({"trial": number} | trial for number, trial in enumerate(trials)), key=by_loss)
    print(f"the best of each inner size, in {recipe.FOLDS}-fold cross-validation:", flush=True)
    both = join(train, validation)
    finalists, logits = [], {}
    for size in grid["inner_size"]:
        best = next(trial for trial in trials if trial["inner_size"] == size)
        trial = {name: best[name] for name in ("trial", *grid)}
        result, logits[size] = cross_validate(both, trial, classes, seed)
        finalists.append(show(result))
    finalists.sort(key=by_loss)
    winner = finalists[0]
    _, weights = train_head(both, None, winner, classes, seed, winner["epoch"])
    return Search(trials, finalists, weights, logits[winner["inner_size"]], both.labels)


def cross_validate(examples: Examples, trial: dict, classes: int, seed: int) -> tuple[dict, np.ndarray]:
    """Train a head recipe.FOLDS times, each time without another part of the images, and judge it on that part.

    Returns the trial with the mean best epoch, val_loss (at the best temperature) and val_accuracy over all images, and
    for every row the logits [n, classes] of the head that has not seen its image.
    """
    names = np.unique(examples.images)
    parts = np.random.default_rng(seed).permutation(len(names)) % recipe.FOLDS
    part_of_row = parts[np.searchsorted(names, examples.images)]
    logits = np.empty((len(examples.labels), classes), np.float32)
    epochs = []
    for part in range(recipe.FOLDS):
        held_out = part_of_row == part
        train, validation = (Examples(*(column[rows] for column in examples)) for rows in (~held_out, held_out))
        result, weights = train_head(train, validation, trial, classes, seed + part)
        logits[held_out] = apply_head(weights, validation.features)
        epochs.append(result["epoch"])
    temperature = fit_temperature(logits, examples.labels)
    results = {
        "epoch": round(np.mean(epochs)),
        "val_loss": cross_entropy(logits / temperature, examples.labels),
        "val_accuracy": accuracy(logits, examples.labels),
    }
    return trial | results, logits


# --- Calibration, and pictures of no known breed ---------------------------------------------------------------------


def fit_classifier(train: Examples, validation: dict[str, Examples], found: Search) -> Classifier:
    """Calibrate the head that a search found, and fit the rule for unknown breeds.

    The temperature comes from the logits of pictures while they were held out, the threshold from the whole photos of
    the validation part.
    """
    temperature = fit_temperature(found.held_out_logits, found.labels)
    means = class_means(train)
    similarities = similarity(validation["whole_photos"].features, means)
    return Classifier(
        [*found.weights[:-2], found.weights[-2] / temperature, found.weights[-1] / temperature],
        temperature,
        means,
        float(np.quantile(similarities, 1 - recipe.KNOWN_SHARE)),
    )


def class_means(examples: Examples) -> np.ndarray:
    """Return the mean features of each class, scaled to length 1: float32 [classes, 2048]."""
    classes = range(examples.labels.max() + 1)
    means = np.stack([examples.features[examples.labels == label].mean(axis=0) for label in classes])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def similarity(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the cosine between features [n, 2048] and the nearest class mean: [n], 0..1, low for unknown breeds.

    The nearest mean as in Mensink et al. 2013 (doi:10.1109/TPAMI.2013.83). benchmarks/accuracy.py compares it with the
    highest probability and with the energy of the logits, which tell unknown breeds less well.
    """
    return (features @ means.T).max(axis=1) / np.maximum(np.linalg.norm(features, axis=1), 1e-6)


# --- The whole model -------------------------------------------------------------------------------------------------


def build_model(task: Task, classifier: Classifier) -> keras.Model:
    """Return the whole classifier: RGB pixels 0..255, float32 [n, size, size, 3] -> a list of two outputs.

    These are the probabilities [n, classes], and what `similarity` gives, [n, 1], by which unknown breeds are told.
    """
    weights, size = classifier.weights, task.size
    classes = len(weights[-1])
    backbone = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(size, size, 3), name="xception"
    )
    backbone.load_weights(weights_path(task.data_dir))
    backbone.trainable = False
    head = build_head(weights[0].shape[1] if len(weights) > 2 else 0, 0.0, classes)
    inputs = keras.Input((size, size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(inputs)
    x = features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(x))
    for layer in head.layers:
        x = layer(x)
    head.set_weights(weights)
    cosines = keras.layers.Dense(classes, use_bias=False, name="cosines")
    y = keras.layers.Reshape((classes, 1))(cosines(keras.layers.UnitNormalization()(features)))
    # A maximum, written as a layer: .h5 files hold nothing else.
    outputs = [keras.layers.Softmax(name="probabilities")(x), keras.layers.GlobalMaxPooling1D(name="similarity")(y)]
    cosines.set_weights([classifier.means.T])
    return keras.Model(inputs, outputs, name="dog_breeds")


def save_model(model: keras.Model, path: Path) -> None:
    """Write a model as .h5."""
    logging.disable(logging.WARNING)  # Keras warns that .h5 is its older format; the file's users expect it
    with written_whole(path) as part:
        model.save(part)
    logging.disable(logging.NOTSET)
