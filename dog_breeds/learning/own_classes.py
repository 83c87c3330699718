"""Heads for anybody's classes: taught, put beside the classes of another file, judged in
cross-validation.
"""

import numpy as np

from dog_breeds import recipe
from dog_breeds.learning.features import Examples, join
from dog_breeds.learning.heads import (
    Classifier,
    apply_head,
    class_means,
    cross_validate,
    epochs_for,
    fit_upright,
    folds,
    similarity,
    train_head,
)
from dog_breeds.learning.metrics import evaluate, fit_temperature, log_softmax, wilson_interval

# What was learned, calibrated logits of pictures held out, unknown rule
Lesson = tuple[Classifier, np.ndarray, dict]


def teach(examples: Examples, upright: Examples, seed: int) -> Lesson:
    """Train a head for classes, and a score of `upright` pictures, as `heads.fit_upright` does.

    Temperature and threshold come from pictures while they were held out, the latter from their
    similarity to the means of the others.
    """
    labels, classes = examples.labels, examples.labels.max() + 1
    _, logits = cross_validate(examples, recipe.PLAIN_TRIAL, classes, seed)
    temperature = fit_temperature(logits, labels)
    weights = train(examples, classes, seed)
    means = class_means(examples)
    threshold, rule = unknown_rule(examples, means, 0, 1.0, seed)
    calibrated = [*weights[:-2], *(array / np.float32(temperature) for array in weights[-2:])]
    classifier = Classifier(calibrated, temperature, means, threshold, *fit_upright(upright, seed))
    return classifier, logits / temperature, rule


def teach_beside(examples: Examples, old: Classifier, seed: int) -> Lesson:
    """Put classes beside those of another head, of which only the means are known; their labels
    follow the old ones'.

    The old head stays as it is. The new classes' part of it is trained on their pictures, and on
    the old means in the place of pictures. Raises ValueError if the old head has an inner layer.
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
    for part in range(recipe.FOLDS):
        weights = extended(Examples(*(column[parts != part] for column in examples)), seed + part)
        logits[parts == part] = apply_head(weights, examples.features[parts == part])
    means = np.concatenate([old.means, class_means(examples)])
    threshold, rule = unknown_rule(examples, means, n, old.threshold, seed)
    classifier = old._replace(weights=extended(examples, seed), means=means, threshold=threshold)
    return classifier, logits, rule


def train(examples: Examples, classes: int, seed: int) -> list[np.ndarray]:
    """Train a head with recipe.PLAIN_TRIAL on all the examples; return its weights."""
    epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
    return train_head(examples, recipe.PLAIN_TRIAL, classes, seed, epochs)[1]


def unknown_rule(
    examples: Examples, means: np.ndarray, first: int, highest: float, seed: int
) -> tuple[float, dict]:
    """Return the similarity from which pictures count as known, and what the file and the report
    say of that.

    `first` is the row of `means` at which those of the examples begin; the threshold is `highest`
    at most. How many pictures of unknown classes pass is measured with each class as the unknown
    one.
    """
    features, labels, _ = examples
    parts, scores = folds(examples, seed), np.empty(len(labels))
    for part in range(recipe.FOLDS):
        seen = class_means(Examples(*(column[parts != part] for column in examples)))
        seen = np.concatenate([means[:first], seen])
        scores[parts == part] = similarity(features[parts == part], seen)
    threshold = min(float(np.quantile(scores, 1 - recipe.KNOWN_SHARE)), highest)
    unknown = np.concatenate(
        [
            similarity(features[labels == k], np.delete(means, first + k, axis=0))
            for k in range(labels.max() + 1)
        ]
    )
    return threshold, {
        "score": "similarity",
        "threshold": threshold,
        "known_pictures_taken_as_known": float((scores >= threshold).mean()),
        "pictures_of_a_class_left_out_taken_as_known": float((unknown >= threshold).mean()),
    }


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
