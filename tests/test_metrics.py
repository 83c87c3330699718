"""Figures, against values worked out by hand."""

import numpy as np
import pytest

from dog_breeds.learning import metrics


def logits_of(confidences, classes=4):
    """Logits whose top class is 0, with these probabilities."""
    p = np.asarray(confidences)[:, None]
    return (
        np.log(np.concatenate([p, np.repeat((1 - p) / (classes - 1), classes - 1, 1)], axis=1)) + 7
    )


def test_calibration_error_by_hand():
    logits, labels = logits_of([0.95, 0.95, 0.65, 0.65, 0.65, 0.65]), np.array([0, 1, 0, 0, 0, 2])
    # |0.95 - 1/2| * 2/6 + |0.65 - 3/4| * 4/6
    assert metrics.expected_calibration_error(logits, labels) == pytest.approx(
        0.45 / 3 + 0.1 * 2 / 3
    )
    bins = metrics.reliability(logits, labels)
    assert bins.shape == (15, 3)
    np.testing.assert_allclose(bins[[9, 14]], [[4, 2.6, 3], [2, 1.9, 1]])
    assert bins.sum() == pytest.approx(6 + 4.5 + 4)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (95, 100), (37, 37), (317, 335)])
def test_wilson_interval_is_where_the_score_test_turns(right, n):
    low, high = metrics.wilson_interval(right / n, n)
    assert 0 <= low <= right / n <= high <= 1
    for end in (low, high):
        assert (right / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    known, unknown = rng.integers(3, 12, 40) / 2, rng.integers(0, 9, 30) / 2
    pairs = [(k > u) + (k == u) / 2 for k in known for u in unknown]
    assert metrics.auroc(known, unknown) == pytest.approx(np.mean(pairs))
    assert metrics.auroc(known, known) == 0.5


def test_temperature_undoes_overconfidence_and_large_logits_do_no_harm():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, 5))
    # Drawn with the probabilities softmax(true)
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    assert metrics.fit_temperature(3 * true, labels) == pytest.approx(3, rel=0.08)
    assert (
        metrics.expected_calibration_error(true, labels)
        < 0.02
        < metrics.expected_calibration_error(3 * true, labels)
    )
    assert metrics.cross_entropy(1000 + true, labels) == pytest.approx(
        metrics.cross_entropy(true, labels)
    )
    np.testing.assert_allclose(np.exp(metrics.log_softmax(1000 + true)).sum(axis=1), 1)


def test_evaluation_by_hand():
    predicted, labels = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 0, 1, 1, 1, 2])
    result = metrics.evaluate(5.0 * np.eye(3)[predicted], labels, ["a", "b", "c"], 2.0)
    assert result["confusion_matrix"] == [[2, 0, 0], [0, 1, 2], [0, 0, 1]]
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["precision"] == pytest.approx({"a": 1, "b": 1, "c": 1 / 3})
    assert result["recall"] == pytest.approx({"a": 1, "b": 1 / 3, "c": 1})
    assert result["most_confused"] == [{"true": "b", "predicted": "c", "count": 2}]
    assert result["calibration_error_before"] > result["calibration_error"]
