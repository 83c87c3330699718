"""The rules from logits to an answer: temperature, unknown breeds and candidates. NumPy only."""

from typing import NamedTuple

import numpy as np

from dog_breeds import recipe
from dog_breeds.learning.metrics import fit_temperature, log_softmax

SCORE = "logit"  # the output of a model file that decides whether a breed is known
# Model files and reports contain this note if the rules were fitted on photos of the training set.
NOTE = (
    "fitted on photos like those of the training; unknown classes that look like a known one "
    "pass far more often than this says"
)


class Rules(NamedTuple):
    """The fitted rules, and a description of the photos on which they were fitted."""

    temperature: float  # divides the logits
    threshold: float  # the lowest score that counts as a known breed
    candidate_threshold: float | None  # the lowest probability of a candidate
    known_share: float  # share of the fitting photos that the threshold accepts as known
    fitted_on: str  # the number and the source of the photos, as a text for people
    score: str = SCORE
    note: str = ""


def fit_rules(
    logits: np.ndarray, labels: np.ndarray, known_share: float, fitted_on: str, note: str = ""
) -> Rules:
    """Fit the three rules on the logits [n, classes] of photos on which the head was not trained.

    The score for unknown breeds is the highest logit (Hendrycks et al. 2022, arXiv:1911.11132).
    On photos from elsewhere, this score wrongly accepts fewer unknown dogs than the highest
    probability, the entropy or the similarity to the nearest class mean. The threshold accepts a
    share of `known_share` of the fitting photos.
    """
    temperature = fit_temperature(logits, labels)
    calibrated = logits / temperature
    scores = highest_logit(calibrated)
    threshold = float(np.quantile(scores, 1 - known_share))
    known = scores >= threshold
    candidate_threshold = fit_candidates(calibrated[known], labels[known])
    return Rules(temperature, threshold, candidate_threshold, known_share, fitted_on, note=note)


def highest_logit(logits: np.ndarray) -> np.ndarray:
    """Return the highest logit of each row [n]; it is low for photos of unknown breeds."""
    return logits.max(axis=1)


def fit_candidates(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the lowest probability of a candidate, at most 0.5.

    `logits` [n, classes] are calibrated. The method is split conformal prediction (Angelopoulos
    and Bates 2021, arXiv:2107.07511). For a share of recipe.CANDIDATES_LEVEL of similar new photos,
    the candidates include the true class. The likeliest class is always a candidate, see
    `candidates`.
    """
    right = np.sort(np.exp(log_softmax(logits))[np.arange(len(labels)), labels])
    # Number of photos whose true class may be missing from the candidates
    below = int((len(right) + 1) * (1 - recipe.CANDIDATES_LEVEL))
    return float(np.clip(right[max(below - 1, 0)], 1e-6, 0.5))


def candidates(logits: np.ndarray, candidate_threshold: float) -> np.ndarray:
    """Return which classes are candidates, bool [n, classes], by the same rule as the handler."""
    probabilities = np.exp(log_softmax(logits))
    return (probabilities >= candidate_threshold) | (
        probabilities == probabilities.max(axis=1, keepdims=True)
    )


def rule_facts(rules: Rules) -> dict:
    """Return the facts "unknown_rule" and "candidates" for a model file and a report."""
    said: dict = {"fitted_on": rules.fitted_on} | ({"note": rules.note} if rules.note else {})
    facts = {
        "unknown_rule": {
            "score": rules.score,
            "threshold": rules.threshold,
            "known_share": rules.known_share,
        }
        | said
    }
    if rules.candidate_threshold is not None:
        level = recipe.CANDIDATES_LEVEL
        facts["candidates"] = {"threshold": rules.candidate_threshold, "level": level} | said
    return facts


def rules_of(facts: dict) -> Rules:
    """Return the rules from the facts of a model file.

    Files of earlier versions have fewer facts. Defaults replace the missing facts.
    """
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
    """Measure the rules on the calibrated logits [n, classes] of photos of known breeds.

    All results are shares 0..1, except "candidates", which is the mean number of candidates. The
    results about candidates come from the photos taken as known, because only the answers to such
    photos have candidates.
    """
    known = highest_logit(logits) >= rules.threshold
    result = {"taken_as_known": float(known.mean())}
    if known.any() and rules.candidate_threshold is not None:
        found = candidates(logits[known], rules.candidate_threshold)
        result["candidates_hold_the_right_class"] = float(
            found[np.arange(known.sum()), labels[known]].mean()
        )
        result["candidates"] = float(found.sum(axis=1).mean())
        result["single_candidate"] = float((found.sum(axis=1) == 1).mean())
    return result
