"""The rules that make answers of logits: temperature, unknown breeds, candidates. NumPy only."""

from typing import NamedTuple

import numpy as np

from dog_breeds import recipe
from dog_breeds.learning.metrics import fit_temperature, log_softmax

SCORE = "logit"  # the output of a model file by which unknown breeds are rejected
# Said wherever the rules rest on photos of the training set.
NOTE = (
    "fitted on photos like those of the training; unknown classes that look like a known one "
    "pass far more often than this says"
)


class Rules(NamedTuple):
    """What is fitted on photos that the head has not seen, and on which photos."""

    temperature: float  # divides the logits
    threshold: float  # of the score: from here on, a photo counts as a known breed
    likely: float | None  # probability from which a class is a candidate
    known_share: float  # of the photos below, that the threshold keeps as known
    fitted_on: str  # for people: how many photos of what
    score: str = SCORE
    note: str = ""


def fit_rules(
    logits: np.ndarray, labels: np.ndarray, known_share: float, fitted_on: str, note: str = ""
) -> Rules:
    """Fit the three rules on the logits [n, classes] of photos that the head has not seen.

    Unknown breeds are rejected by the highest logit (Hendrycks et al. 2022, arXiv:1911.11132): on
    photos from elsewhere, fewer unknown dogs pass than by the highest probability, the entropy, or
    the similarity to the nearest class mean. The threshold keeps `known_share` of these photos.
    """
    temperature = fit_temperature(logits, labels)
    calibrated = logits / temperature
    scores = highest_logit(calibrated)
    threshold = float(np.quantile(scores, 1 - known_share))
    known = scores >= threshold
    likely = fit_candidates(calibrated[known], labels[known])
    return Rules(temperature, threshold, likely, known_share, fitted_on, note=note)


def highest_logit(logits: np.ndarray) -> np.ndarray:
    """Return the highest logit of each row [n], low for photos of unknown breeds."""
    return logits.max(axis=1)


def fit_candidates(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the probability from which a class is a candidate.

    Split conformal prediction (Angelopoulos and Bates 2021, arXiv:2107.07511): the right class is
    among the candidates of recipe.CANDIDATES_LEVEL of further photos like these n. `logits` are
    calibrated. At most 0.5: the likeliest class is always a candidate.
    """
    right = np.sort(np.exp(log_softmax(logits))[np.arange(len(labels)), labels])
    below = int((len(right) + 1) * (1 - recipe.CANDIDATES_LEVEL))  # so many photos may miss it
    return float(np.clip(right[max(below - 1, 0)], 1e-6, 0.5))


def candidates(logits: np.ndarray, likely: float) -> np.ndarray:
    """Return which classes are candidates, bool [n, classes], as the handler says."""
    probabilities = np.exp(log_softmax(logits))
    return (probabilities >= likely) | (probabilities == probabilities.max(axis=1, keepdims=True))


def rule_facts(rules: Rules) -> dict:
    """Return what a model file and a report say of the rules: "unknown_rule" and "candidates"."""
    said: dict = {"fitted_on": rules.fitted_on} | ({"note": rules.note} if rules.note else {})
    facts = {
        "unknown_rule": {
            "score": rules.score,
            "threshold": rules.threshold,
            "known_share": rules.known_share,
        }
        | said
    }
    if rules.likely is not None:
        level = recipe.CANDIDATES_LEVEL
        facts["candidates"] = {"threshold": rules.likely, "level": level} | said
    return facts


def rules_of(facts: dict) -> Rules:
    """Return the rules that a model file states; files of earlier versions state fewer."""
    rule = facts["unknown_rule"]
    return Rules(
        facts["temperature"],
        rule["threshold"],
        facts.get("candidates", {}).get("threshold"),
        rule.get("known_share", 0.98),
        rule.get("fitted_on", "photos of the training set"),
        rule["score"],
        rule.get("note", ""),
    )


def measure_known(logits: np.ndarray, labels: np.ndarray, rules: Rules) -> dict:
    """Return what the rules make of calibrated logits [n, classes] of known photos, as shares 0..1.

    Candidates are measured on the photos taken as known: only these answers have any.
    """
    known = highest_logit(logits) >= rules.threshold
    result = {"taken_as_known": float(known.mean())}
    if known.any() and rules.likely is not None:
        found = candidates(logits[known], rules.likely)
        result["candidates_hold_the_right_class"] = float(
            found[np.arange(known.sum()), labels[known]].mean()
        )
        result["candidates"] = float(found.sum(axis=1).mean())
        result["single_candidate"] = float((found.sum(axis=1) == 1).mean())
    return result
