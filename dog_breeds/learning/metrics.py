"""Metrics of predictions, from logits, float [n, classes], and labels, int [n]. NumPy only."""

import math
from collections.abc import Sequence

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities, [n, classes]."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the true classes."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose highest logit is that of the true class, 0..1."""
    return float((logits.argmax(axis=1) == labels).mean())


def wilson_interval(share: float, n: int) -> list[float]:
    """Return the 95 % confidence interval of a share measured on n images (Wilson 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> np.ndarray:
    """Return the columns of a reliability diagram, float [bins, 3].

    The bins divide the confidence 0..1 into equal parts. The columns are the number of images in
    the bin, the sum of their confidences, and the number of correct predictions.
    """
    confidence = np.exp(log_softmax(logits).max(axis=1))
    correct = logits.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return np.stack(
        [
            np.bincount(bin_of, values, bins)
            for values in (np.ones(len(labels)), confidence, correct)
        ],
        1,
    )


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al. 2017, arXiv:1706.04599).

    The error is the mean gap between confidence and accuracy in 15 equal bins, weighted by the
    number of images in each bin.
    """
    _, confidence, correct = reliability(logits, labels).T
    return float(np.abs(confidence - correct).sum() / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature, 0.2 to 5, that minimises the cross-entropy (Guo et al. 2017).

    The temperature divides the logits. Its precision is 0.5 %.
    """
    low, high = math.log(0.2), math.log(5)
    # Ternary search: the cross-entropy has one minimum, so each step drops a third without it
    while high - low > 0.005:
        third = (high - low) / 3
        left, right = (
            cross_entropy(logits / math.exp(t), labels) for t in (low + third, high - third)
        )
        low, high = (low, high - third) if left < right else (low + third, high)
    return math.exp((low + high) / 2)


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the area under the ROC curve for scores of known [n] and unknown images [m].

    This is the probability that a known image scores higher than an unknown image. Ties count half.
    """
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, "left") + np.searchsorted(ordered, known, "right")
    return float(below.mean() / 2 / len(unknown))


def evaluate(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], temperature: float
) -> dict:
    """Return accuracy with its interval, calibration errors and metrics of each breed.

    `logits` are calibrated. Logits times `temperature` are the logits before calibration, which
    give "calibration_error_before". Reports contain this dict.
    """
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    pairs = [
        {"true": classes[i], "predicted": classes[j], "count": int(confusion[i, j])}
        for i, j in zip(*np.nonzero(confusion), strict=True)
        if i != j
    ]
    correct = confusion.diagonal()
    share = accuracy(logits, labels)
    return {
        "pictures": len(labels),
        "accuracy": share,
        "accuracy_interval_95": wilson_interval(share, len(labels)),
        "cross_entropy": cross_entropy(logits, labels),
        "calibration_error": expected_calibration_error(logits, labels),
        "calibration_error_before": expected_calibration_error(logits * temperature, labels),
        "precision": dict(
            zip(classes, (correct / np.maximum(confusion.sum(axis=0), 1)).tolist(), strict=True)
        ),
        "recall": dict(
            zip(classes, (correct / np.maximum(confusion.sum(axis=1), 1)).tolist(), strict=True)
        ),
        "most_confused": sorted(pairs, key=lambda pair: -pair["count"])[:10],
        "confusion_matrix": confusion.tolist(),  # [true breed][predicted breed]
    }
