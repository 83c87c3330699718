"""Heads for a user's own classes: training, addition to the head of another file, evaluation."""

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

# The classifier, the calibrated logits of the held-out images in cross-validation, and the facts
# from `rules.rule_facts`
Lesson = tuple[Classifier, np.ndarray, dict]


def teach(examples: Examples, upright: Examples, seed: int) -> Lesson:
    """Train a head for the classes of `examples`, and fit its rules and a score for upright images.

    Labels are 0 to N - 1. The rules are fitted on logits from cross-validation: each image's logits
    come from the head that was trained without the image. `heads.fit_upright` fits the score on
    `upright`.
    """
    labels, classes = examples.labels, examples.labels.max() + 1
    _, logits = cross_validate(examples, recipe.PLAIN_TRIAL, classes, seed)
    fitted_on = f"{len(labels):,} images while they were held out"
    rules = fit_rules(logits, labels, recipe.KNOWN_SHARE, fitted_on, NOTE)
    weights = calibrated_weights(train(examples, classes, seed), rules.temperature)
    classifier = Classifier(weights, rules, class_means(examples), *fit_upright(upright, seed))
    facts = rule_facts(rules)
    passing = share_of_unknown_classes(examples, classifier, seed)
    if passing is not None:
        facts["unknown_rule"]["pictures_of_a_class_left_out_taken_as_known"] = passing
    return classifier, logits / rules.temperature, facts


def share_of_unknown_classes(examples: Examples, classifier: Classifier, seed: int) -> float | None:
    """Return the share of images of unknown classes that the threshold wrongly accepts as known.

    The classes are divided into groups, at most recipe.FOLDS. For each group, a head is trained on
    the classes of all other groups and tested on this group. Return None for two classes, because a
    head needs at least two classes.
    """
    classes = int(examples.labels.max()) + 1
    if classes < 3:
        return None
    groups = min(recipe.FOLDS, classes)
    accepted = []
    for group in range(groups):
        kept = np.arange(classes) % groups != group  # bool [classes]
        new_labels = np.cumsum(kept) - 1  # numbers the kept classes from 0, without gaps
        rows = kept[examples.labels]
        seen = examples.take(rows)
        seen = seen._replace(labels=new_labels[seen.labels])
        weights = train(seen, int(kept.sum()), seed + group)
        weights = calibrated_weights(weights, classifier.temperature)
        logits = apply_head(weights, examples.features[~rows])
        accepted.append(highest_logit(logits) >= classifier.threshold)
    return float(np.concatenate(accepted).mean())


def teach_beside(examples: Examples, old: Classifier, seed: int) -> Lesson:
    """Add classes to the head of another model file without the images of its classes.

    The labels of the new classes follow those of the old classes. The old weights do not change.
    The weights of the new classes are trained on the new images and on the mean features of the old
    classes, which replace the missing images. The thresholds of the old rules become lower if the
    new images need lower ones. Raises ValueError if the old head has an inner layer.
    """
    if len(old.weights) > 2:
        raise ValueError("its head has an inner layer, to which nothing can be added")
    kernel, bias = old.weights
    labels, n = examples.labels + len(bias), len(bias)
    classes = labels.max() + 1

    def extended(new: Examples, fold_seed: int) -> list[np.ndarray]:
        # Class means have length 1, so scale them to the length of the new images' mean features.
        # Repeat each old mean as often as a new class has images, on average.
        mean_features = new.features.mean(axis=0)
        times = max(1, len(new.labels) // (classes - n))
        old_features = np.repeat(old.means * np.linalg.norm(mean_features), times, axis=0)
        numbers = np.repeat(np.arange(n), times)
        both = join(Examples(old_features, numbers, numbers), new._replace(labels=new.labels + n))
        # Train a head for all classes, and keep only the columns of the new classes
        new_kernel, new_bias = (
            array[..., n:] / np.float32(old.temperature)
            for array in train(both, classes, fold_seed)
        )
        return [np.concatenate([kernel, new_kernel], axis=1), np.concatenate([bias, new_bias])]

    logits = np.empty((len(labels), classes), np.float32)
    scores, fold_of_row = np.empty(len(labels), np.float32), folds(examples, seed)
    for fold in range(recipe.FOLDS):
        rows = fold_of_row == fold
        seen, held_out = examples.take(~rows), examples.features[rows]
        logits[rows] = apply_head(extended(seen, seed + fold), held_out)
        if old.rules.score != SCORE:  # a file of an earlier version rejects by similarity
            means = np.concatenate([old.means, class_means(seen)])
            scores[rows] = similarity(held_out, means)
    if old.rules.score == SCORE:
        scores = highest_logit(logits)
    threshold = min(float(np.quantile(scores, 1 - recipe.KNOWN_SHARE)), old.threshold)
    known = scores >= threshold
    fitted_on = f"{old.rules.fitted_on}, and {len(labels):,} added images"
    rules = old.rules._replace(threshold=threshold, note=NOTE, fitted_on=fitted_on)
    if rules.candidate_threshold is not None:
        candidate_threshold = min(
            rules.candidate_threshold, fit_candidates(logits[known], labels[known])
        )
        rules = rules._replace(candidate_threshold=candidate_threshold)
    means = np.concatenate([old.means, class_means(examples)])
    classifier = old._replace(weights=extended(examples, seed), means=means, rules=rules)
    return classifier, logits, rule_facts(rules)


def train(examples: Examples, classes: int, seed: int) -> list[np.ndarray]:
    """Train a head with the settings recipe.PLAIN_TRIAL on all examples; return its weights."""
    epochs = epochs_for(len(examples.labels), recipe.STEPS, recipe.EPOCHS)
    return train_head(examples, recipe.PLAIN_TRIAL, classes, seed, epochs)[1]


def evaluate_cross_validation(
    logits: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    classes: list[str],
    temperature: float,
    different: int,
) -> dict:
    """Return the metrics of `metrics.evaluate` for cross-validation, and the wrong predictions.

    `logits` [n, classes] are calibrated, and `names` are the names of the n images. "confusions"
    lists the wrongly classified images by name. `different` is the number of images without
    copies. The confidence interval uses this number, so that copies do not make it narrower.
    """
    result = evaluate(logits, labels, classes, temperature)
    result["accuracy_interval_95"] = wilson_interval(result["accuracy"], different)
    del result["most_confused"]
    # Classes from another file have no images here, so they have no metrics
    present = {classes[label] for label in labels}
    for key in ("precision", "recall"):
        result[key] = {name: share for name, share in result[key].items() if name in present}
    probabilities = np.exp(log_softmax(logits))
    guesses, surest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusions: dict[tuple[str, str], list[dict]] = {}
    for i in sorted(np.flatnonzero(guesses != labels), key=lambda i: -surest[i]):
        images = confusions.setdefault((classes[labels[i]], classes[guesses[i]]), [])
        images.append({"picture": names[i], "probability": round(float(surest[i]), 3)})
    result["confusions"] = [
        {"true": true, "taken_for": guess, "count": len(images), "pictures": images}
        for (true, guess), images in sorted(confusions.items(), key=lambda item: -len(item[1]))
    ]
    return result
