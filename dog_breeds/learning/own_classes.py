"""Heads for anybody's classes: taught, put beside the classes of another file, judged in
cross-validation.
"""

import numpy as np

from dog_breeds import recipe
from dog_breeds.learning.features import Examples, join
from dog_breeds.learning.heads import (
    Classifier,
    apply_head,
    calibrated_weights,
    class_means,
    cross_validate,
    epochs_for,
    fit_upright,
    folds,
    similarity,
    train_head,
)
from dog_breeds.learning.metrics import evaluate, log_softmax, wilson_interval
from dog_breeds.learning.rules import (
    NOTE,
    SCORE,
    fit_candidates,
    fit_rules,
    highest_logit,
    rule_facts,
)

# What was learned, calibrated logits of pictures while they were held out, and the facts about the
# rules that `rules.rule_facts` gives
Lesson = tuple[Classifier, np.ndarray, dict]


def teach(examples: Examples, upright: Examples, seed: int) -> Lesson:
    """Train a head for classes, and a score of `upright` pictures, as `heads.fit_upright` does.

    The rules are fitted on the logits of pictures while they were held out.
    """
    labels, classes = examples.labels, examples.labels.max() + 1
    _, logits = cross_validate(examples, recipe.PLAIN_TRIAL, classes, seed)
    fitted_on = f"{len(labels):,} pictures while they were held out"
    rules = fit_rules(logits, labels, recipe.KNOWN_SHARE, fitted_on, NOTE)
    weights = calibrated_weights(train(examples, classes, seed), rules.temperature)
    classifier = Classifier(weights, rules, class_means(examples), *fit_upright(upright, seed))
    facts = rule_facts(rules)
    passing = share_of_unknown_classes(examples, classifier, seed)
    if passing is not None:
        facts["unknown_rule"]["pictures_of_a_class_left_out_taken_as_known"] = passing
    return classifier, logits / rules.temperature, facts


def share_of_unknown_classes(examples: Examples, classifier: Classifier, seed: int) -> float | None:
    """Return the share of pictures that the threshold lets pass by a head that does not know their
    class; None for two classes, of which none can be left out.

    Up to recipe.FOLDS times, another part of the classes is left out.
    """
    classes = int(examples.labels.max()) + 1
    if classes < 3:
        return None
    parts = min(recipe.FOLDS, classes)
    passing = []
    for part in range(parts):
        kept = np.arange(classes) % parts != part
        new_labels = np.cumsum(kept) - 1
        rows = kept[examples.labels]
        seen = Examples(*(column[rows] for column in examples))
        seen = seen._replace(labels=new_labels[seen.labels])
        weights = calibrated_weights(
            train(seen, int(kept.sum()), seed + part), classifier.temperature
        )
        logits = apply_head(weights, examples.features[~rows])
        passing.append(highest_logit(logits) >= classifier.threshold)
    return float(np.concatenate(passing).mean())


def teach_beside(examples: Examples, old: Classifier, seed: int) -> Lesson:
    """Put classes beside those of another head, of which only the means are known; their labels
    follow the old ones'.

    The old head stays as it is. The new classes' part of it is trained on their pictures, and on
    the old means in the place of pictures. The thresholds of the old rules become lower if the new
    pictures need it. Raises ValueError if the old head has an inner layer.
    """
    if len(old.weights) > 2:
        raise ValueError("its head has an inner layer, to which nothing can be added")
    kernel, bias = old.weights
    labels, n = examples.labels + len(bias), len(bias)
    classes = labels.max() + 1

    def extended(some: Examples, fold_seed: int) -> list[np.ndarray]:
        shown = some.features.mean(axis=0)
        times = max(1, len(some.labels) // (classes - n))  # as many as a new class has pictures
        old_features = np.repeat(old.means * np.linalg.norm(shown), times, axis=0)
        numbers = np.repeat(np.arange(n), times)
        both = join(Examples(old_features, numbers, numbers), some._replace(labels=some.labels + n))
        new_kernel, new_bias = (
            array[..., n:] / np.float32(old.temperature)
            for array in train(both, classes, fold_seed)
        )
        return [np.concatenate([kernel, new_kernel], axis=1), np.concatenate([bias, new_bias])]

    logits, parts = np.empty((len(labels), classes), np.float32), folds(examples, seed)
    scores = np.empty(len(labels), np.float32)
    for part in range(recipe.FOLDS):
        seen = Examples(*(column[parts != part] for column in examples))
        held_out = examples.features[parts == part]
        logits[parts == part] = apply_head(extended(seen, seed + part), held_out)
        if old.rules.score != SCORE:  # a file of an earlier version
            means = np.concatenate([old.means, class_means(seen)])
            scores[parts == part] = similarity(held_out, means)
    if old.rules.score == SCORE:
        scores = highest_logit(logits)
    threshold = min(float(np.quantile(scores, 1 - recipe.KNOWN_SHARE)), old.threshold)
    known = scores >= threshold
    rules = old.rules._replace(threshold=threshold, note=NOTE)
    rules = rules._replace(fitted_on=f"{rules.fitted_on}, and {len(labels):,} added pictures")
    if rules.likely is not None:
        likely = min(rules.likely, fit_candidates(logits[known], labels[known]))
        rules = rules._replace(likely=likely)
    means = np.concatenate([old.means, class_means(examples)])
    classifier = old._replace(weights=extended(examples, seed), means=means, rules=rules)
    return classifier, logits, rule_facts(rules)


def train(examples: Examples, classes: int, seed: int) -> list[np.ndarray]:
    """Train a head with recipe.PLAIN_TRIAL on all the examples; return its weights."""
    epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
    return train_head(examples, recipe.PLAIN_TRIAL, classes, seed, epochs)[1]


def judge(
    logits: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    classes: list[str],
    temperature: float,
    different: int,
) -> dict:
    """Return what cross-validation says: `metrics.evaluate`, and with their names the pictures that
    were mistaken.

    So many pictures are `different`: copies make the interval no narrower.
    """
    result = evaluate(logits, labels, classes, temperature)
    result["accuracy_interval_95"] = wilson_interval(result["accuracy"], different)
    del result["most_confused"]
    there = {classes[label] for label in labels}  # classes of another file have no pictures
    for key in ("precision", "recall"):
        result[key] = {name: share for name, share in result[key].items() if name in there}
    probabilities = np.exp(log_softmax(logits))
    guesses, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusions: dict[tuple[str, str], list[dict]] = {}
    for i in sorted(np.flatnonzero(guesses != labels), key=lambda i: -surest[i]):
        pictures = confusions.setdefault((classes[labels[i]], classes[guesses[i]]), [])
        pictures.append({"picture": names[i], "probability": round(float(surest[i]), 3)})
    result["confusions"] = [
        {"true": true, "taken_for": other, "count": len(pictures), "pictures": pictures}
        for (true, other), pictures in sorted(confusions.items(), key=lambda item: -len(item[1]))
    ]
    return result
