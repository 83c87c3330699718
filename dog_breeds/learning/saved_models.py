"""Models saved by training.py: file names, heads, reports, and the choice of the best model."""

import io
import json
import re
from hashlib import sha256
from pathlib import Path

import numpy as np

from dog_breeds import recipe
from dog_breeds.console import atomic_path
from dog_breeds.learning.heads import Classifier


def model_name(epoch: int, val_accuracy: float) -> str:
    """Return a model's file name, such as xception_v1_30_0.966.h5."""
    return f"{_prefix()}{epoch:02d}_{val_accuracy:.3f}.h5"


def source_files(model_path: Path) -> list[Path]:
    """Return the four files of a saved model: .h5, head (.npz), report (.json) and split (.csv)."""
    return [model_path.with_suffix(suffix) for suffix in (".h5", ".npz", ".json", ".csv")]


def find_best_model(folder: Path = Path()) -> Path:
    """Return the .h5 path of the saved model with the highest validation accuracy.

    Among models with equal accuracy, the newest wins. Raises FileNotFoundError if there is no
    model, or if a model's file is missing. Raises ValueError if the models have different breeds or
    splits, because their accuracies cannot be compared.
    """
    # Models by classes and split: only models of the same task can be compared
    tasks: dict[tuple, list[Path]] = {}
    # Look for all four files of each model, so that a missing .h5 is noticed too
    for path in sorted({path.with_suffix(".h5") for path in folder.glob(f"{_prefix()}*")}):
        if re.fullmatch(rf"{_prefix()}\d+_\d\.\d+", path.stem):
            check_complete(path)
            task = tuple(read_report(path)["classes"]), path.with_suffix(".csv").read_bytes()
            tasks.setdefault(task, []).append(path)
    if not tasks:
        raise FileNotFoundError(f"no {_prefix()}*.h5 in {folder.resolve()}; run training.py first")
    best = {task: max(models, key=_accuracy_and_time) for task, models in tasks.items()}
    if len(best) > 1:
        models = ", ".join(
            f"{path} ({len(classes)} breeds)" for (classes, _), path in sorted(best.items())
        )
        raise ValueError(f"the models here have different breeds or splits; name one of {models}")
    return best.popitem()[1]


def check_complete(model_path: Path) -> None:
    """Raise FileNotFoundError if a file of a saved model is missing."""
    for path in source_files(model_path):
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}; training.py writes a model's .h5, .npz, .json and .csv "
                "together: run it again, or move all of them here"
            )


def read_report(model_path: Path) -> dict:
    """Return the report that training.py wrote for a model.

    Raises ValueError if the file is damaged or was written by an earlier version.
    """
    path = model_path.with_suffix(".json")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is damaged; run training.py again") from None
    if not isinstance(report, dict) or not {"classes", "head_sha256"} <= report.keys():
        raise ValueError(f"{path} is not from this version of training.py; run training.py again")
    return report


def write_head(model_path: Path, classifier: Classifier) -> str:
    """Write all arrays of a model except the backbone as .npz; return the file's SHA-256."""
    path = model_path.with_suffix(".npz")
    arrays = {f"head_{number}": array for number, array in enumerate(classifier.weights)}
    arrays["means"] = classifier.means
    arrays["upright_kernel"], arrays["upright_bias"] = classifier.upright
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)
    return sha256(path.read_bytes()).hexdigest()


def read_head(model_path: Path) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return the arguments of `tflite.join_head` from a saved model: head, means and upright score.

    Raises ValueError if the file does not match the digest in the model's report.
    """
    path = model_path.with_suffix(".npz")
    content = path.read_bytes()
    if sha256(content).hexdigest() != read_report(model_path)["head_sha256"]:
        raise ValueError(f"{path} does not match its report; run training.py again")
    with np.load(io.BytesIO(content)) as arrays:
        head = [arrays[name] for name in sorted(arrays) if name.startswith("head_")]
        return head, arrays["means"], [arrays["upright_kernel"], arrays["upright_bias"]]


def _prefix() -> str:
    return f"{recipe.BACKBONE.lower()}_v1_"


def _accuracy_and_time(path: Path) -> tuple[float, float]:
    return float(path.stem.rsplit("_", 1)[1]), path.stat().st_mtime
