"""Temperature, unknown breeds and candidates: fitted, stated in facts, measured."""

import numpy as np
import pytest

from dog_breeds import recipe
from dog_breeds.learning import rules
from dog_breeds.learning.metrics import expected_calibration_error
from dog_breeds.serving.answers import likely_classes


def drawn_logits(n, classes=6, strength=3.0, seed=0):
    """Logits whose softmax is the true probability of each class, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = strength * rng.normal(size=(n, classes))
    noise = rng.gumbel(size=(n, classes))  # the label is drawn by the softmax
    return logits, (logits + noise).argmax(axis=1)


def test_all_three_rules_hold_on_new_photos():
    logits, labels = drawn_logits(4000)
    fitted = rules.fit_rules(logits * 2, labels, 0.9, "these")  # twice as sure as it may be
    assert fitted.temperature == pytest.approx(2, abs=0.1)
    new, new_labels = drawn_logits(4000, seed=1)
    calibrated = new * 2 / fitted.temperature
    assert expected_calibration_error(calibrated, new_labels) < 0.02
    measured = rules.measure_known(calibrated, new_labels, fitted)
    assert measured["taken_as_known"] == pytest.approx(0.9, abs=0.02)
    right = measured["candidates_hold_the_right_class"]
    assert right == pytest.approx(recipe.CANDIDATES_LEVEL, abs=0.012)
    assert 1 < measured["candidates"] < 3 and 0.1 < measured["single_candidate"] < 1
    nothing = np.full((10, 6), -20.0)  # as of images of something else
    assert rules.measure_known(nothing, new_labels[:10], fitted) == {"taken_as_known": 0}


def test_candidates_are_those_that_the_handler_gives():
    logits, labels = drawn_logits(300)
    candidate_threshold = rules.fit_candidates(logits, labels)
    found = rules.candidates(logits, candidate_threshold)
    names = [f"class_{i}" for i in range(logits.shape[1])]
    for row, flags in zip(logits, found, strict=True):
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        given = likely_classes(probabilities, names, candidate_threshold)
        assert sorted(given) == [name for name, flag in zip(names, flags, strict=True) if flag]
        assert given[0] == names[row.argmax()]


def test_the_threshold_of_candidates_is_a_probability_however_sure_the_head_is():
    labels = np.arange(8) % 2
    sure = 1000.0 * np.eye(2)[labels]
    assert rules.fit_candidates(sure, labels) == 0.5
    assert 0 < rules.fit_candidates(-sure, labels) < 1e-5
    assert rules.candidates(sure, 0.5).sum() == len(labels)


def test_facts_say_what_the_rules_are_and_are_read_back():
    logits, labels = drawn_logits(200)
    fitted = rules.fit_rules(logits, labels, 0.9, "200 photos of mine", rules.NOTE)
    facts = rules.rule_facts(fitted) | {"temperature": fitted.temperature}
    assert rules.rules_of(facts) == fitted
    assert facts["unknown_rule"]["score"] == "logit"
    for name in ("unknown_rule", "candidates"):
        assert facts[name]["fitted_on"] == "200 photos of mine"
        assert "pass far more often" in facts[name]["note"]
    older = {"temperature": 0.8, "unknown_rule": {"score": "similarity", "threshold": 0.7}}
    old = rules.rules_of(older)
    assert (old.score, old.threshold, old.candidate_threshold, old.temperature) == (
        "similarity",
        0.7,
        None,
        0.8,
    )
    assert "candidates" not in rules.rule_facts(old)
