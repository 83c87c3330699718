"""The models that training.py has saved: their names, reports and splits, and which one is best."""

import json
import re
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np

from dog_breeds import recipe


def model_name(epoch: int, val_accuracy: float) -> str:
    """Return a model's file name, such as xception_v1_30_0.966.h5."""
    return f"{_prefix()}{epoch:02d}_{val_accuracy:.3f}.h5"


def source_files(model_path: Path) -> list[Path]:
    """Return the files that make up a saved model: the .h5, its report and its split."""
    return [model_path.with_suffix(suffix) for suffix in (".h5", ".json", ".csv")]


def find_best_model(folder: Path = Path()) -> Path:
    """Return the saved model with the highest validation accuracy, the newest of equal ones.

    Raises FileNotFoundError if there is none or if its report or split is missing. Raises
    ValueError if the models have different breeds or splits: their accuracies say nothing about
    which one is better.
    """
    tasks: dict[tuple, list[Path]] = {}
    for path in sorted(folder.glob(f"{_prefix()}*.h5")):
        if re.fullmatch(r"\d+_\d\.\d+\.h5", path.name.removeprefix(_prefix())):
            check_complete(path)
            classes = tuple(read_report(path)["classes"])
            split = sha256(path.with_suffix(".csv").read_bytes()).hexdigest()
            tasks.setdefault((classes, split), []).append(path)
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
    """Raise FileNotFoundError unless all files of a saved model are there."""
    for path in source_files(model_path):
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}; training.py writes {model_path.name} together with its "
                "report (.json) and its split (.csv): run it again, or move the model's other "
                "files here"
            )


def read_report(model_path: Path) -> dict:
    """Return the report that training.py wrote beside a model.

    Raises ValueError if the file is damaged or was written by an earlier version.
    """
    path = model_path.with_suffix(".json")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is damaged; run training.py again") from None
    if not isinstance(report, dict) or "classes" not in report:
        raise ValueError(f"{path} is not a report of training.py; run training.py again")
    return report


def read_h5(path: Path) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return of a saved model what `tflite.join_head` takes: head, means, and the score of upright
    pictures.
    """
    with h5py.File(path) as file:
        layers = {name: group for name, group in file["model_weights"].items() if len(group)}

        def array(layer: str, name: str) -> np.ndarray:
            found = []
            layers[layer].visititems(
                lambda key, item: found.append(item[()]) if key.endswith(name) else None
            )
            return found[0]

        def dense(*names: str) -> list[np.ndarray]:
            return [array(name, kind) for name in names for kind in ("kernel", "bias")]

        head = dense(*(name for name in ("inner", "logits") if name in layers))
        return head, array("cosines", "kernel").T, dense("upright")


def _prefix() -> str:
    return f"{recipe.BACKBONE.lower()}_v1_"


def _accuracy_and_time(path: Path) -> tuple[float, float]:
    return float(path.stem.rsplit("_", 1)[1]), path.stat().st_mtime
