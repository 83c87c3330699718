"""Compare the head without an inner layer with scikit-learn's LogisticRegression.

Reads     a data folder with photos (made by make_dataset.py), and its features. Missing features
          are computed.
Example

    python benchmarks/logistic_regression.py --json logistic_regression.json

Expect    One figure a line, on the same features: accuracy and cross-entropy (at the best
          temperature) in the same cross-validation, for each penalty of LogisticRegression; its
          seconds beside those of the head, on one thread and in turns; the megabytes that
          scikit-learn adds to an environment.

Needs pip install scikit-learn, which the project itself does not use."""

import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import files, version
from pathlib import Path

import numpy as np
from common import SPLIT_FILE, SPLIT_HELP, Figure, command_line, report
from threadpoolctl import threadpool_limits

import training
from dog_breeds import recipe
from dog_breeds.data.dataset import DATA_DIR
from dog_breeds.learning.features import Examples, training_set
from dog_breeds.learning.heads import apply_head, epochs_for, folds, train_head
from dog_breeds.learning.metrics import accuracy, cross_entropy, fit_temperature

PENALTIES = (0.0003, 0.001, 0.01, 1.0)  # C: the inverse of the strength; 1.0 is the default
PACKAGES = ("scikit-learn", "scipy", "joblib")  # the project already has threadpoolctl

Fit = Callable[[Examples], Callable[[np.ndarray], np.ndarray]]  # gives features -> logits


def our_head(train: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """Train the head of teach.py, for as long as a head that is kept."""
    epochs = epochs_for(len(train.labels), recipe.STEPS, recipe.EPOCHS)
    classes = int(train.labels.max()) + 1
    _, weights = train_head(train, recipe.PLAIN_TRIAL, classes, recipe.SEED, epochs)
    return lambda features: apply_head(weights, features)


def logistic_regression(penalty: float) -> Fit:
    """Return a function that fits a LogisticRegression (L-BFGS) with equal class weights."""
    from sklearn.linear_model import LogisticRegression

    def fit(train: Examples) -> Callable[[np.ndarray], np.ndarray]:
        model = LogisticRegression(C=penalty, max_iter=1000, class_weight="balanced")
        model.fit(train.features, train.labels)
        return lambda features: features @ model.coef_.T + model.intercept_

    return fit


def cross_validated(examples: Examples, fits: dict[str, Fit]) -> Iterator[Figure]:
    """Fit each method on the same folds, in turns. Yield accuracy, cross-entropy and seconds."""
    parts, seconds = folds(examples, recipe.SEED), dict.fromkeys(fits, 0.0)
    shape = len(examples.labels), int(examples.labels.max()) + 1
    logits = {name: np.empty(shape, np.float32) for name in fits}
    with threadpool_limits(1):
        for part in range(recipe.FOLDS):
            held_out = parts == part
            train = examples.take(~held_out)
            for name, fit in fits.items():
                began = time.perf_counter()
                apply = fit(train)
                seconds[name] += time.perf_counter() - began
                logits[name][held_out] = apply(examples.features[held_out])
    for name, rows in logits.items():
        rows = rows / fit_temperature(rows, examples.labels)
        yield f"{name}_accuracy", 100 * accuracy(rows, examples.labels), "%"
        yield f"{name}_cross_entropy", cross_entropy(rows, examples.labels), ""
        yield f"{name}_seconds_to_ours", seconds[name] / seconds["ours"], ""


def measure(data_dir: Path, split_file: Path) -> Iterator[Figure]:
    """Compare the heads, then measure the size of scikit-learn."""
    task = training.prepare_task(data_dir, split_file=split_file)
    examples = training_set(task)
    yield "rows", len(examples.labels), ""
    fits: dict[str, Fit] = {f"sklearn_c_{c:g}": logistic_regression(c) for c in PENALTIES}
    yield from cross_validated(examples, {"ours": our_head} | fits)
    for name in PACKAGES:
        paths = [Path(str(file.locate())) for file in files(name) or []]
        size = sum(path.stat().st_size for path in paths if path.is_file())
        yield f"{name.replace('-', '_')}_{version(name).replace('.', '_')}_mb", size / 1e6, "MB"


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: %(default)s")
    parser.add_argument(
        "--split-file", type=Path, default=SPLIT_FILE, metavar="CSV", help=SPLIT_HELP
    )
    args = parser.parse_args()
    try:
        version("scikit-learn")
    except ImportError:
        sys.exit("logistic_regression.py: pip install scikit-learn")
    report(measure(args.data_dir, args.split_file), args.json)


if __name__ == "__main__":
    main()
