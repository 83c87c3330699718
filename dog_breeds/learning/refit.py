"""Fit the rules of a finished model file again on photos from elsewhere, without training."""

import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from dog_breeds import recipe
from dog_breeds.console import atomic_path
from dog_breeds.data.dataset import Task
from dog_breeds.learning.heads import Classifier, apply_head, calibrated_weights
from dog_breeds.learning.outside import describe_fitting, measure_outside, read_outside
from dog_breeds.learning.rules import fit_rules, rule_facts
from dog_breeds.learning.tflite import inspect_backbone, join_head, read_head
from dog_breeds.serving.facts import append_facts, read_facts

# Test results that do not depend on the rules. The new file does not contain the other results.
LASTING = "pictures", "accuracy", "accuracy_interval_95"


def refit_rules(file: Path, outside: Path, output: Path, data_dir: Path) -> dict:
    """Write a copy of a model file with new rules; return the results of `measure_outside`.

    The new rules are the temperature and the thresholds for unknown breeds and candidates.
    `outside` is a folder with a sub-folder of photos for each breed. The rules are fitted on every
    second known breed and measured on all others. Apart from the temperature, head and backbone do
    not change, so the likeliest class of every image stays the same. `data_dir` contains the cache
    of features. Raises ValueError if the file has no head, or if there are too few photos of its
    classes.
    """
    facts = read_facts(file)
    if not facts["classes"]:
        raise ValueError(f"{file} is a backbone without a head; there is nothing to fit")
    task = Task(data_dir, facts["classes"], {}, facts["input"]["height"], backbone=file)
    photos = read_outside(outside, task)
    if not photos.fitting:
        raise ValueError(f"{output} is not written: {outside} has too few photos of its classes")
    weights, means, upright = read_head(file)
    plain = calibrated_weights(weights, 1 / facts["temperature"])  # undoes the old temperature
    logits = apply_head(plain, photos.fitting.features)
    labels, fitted_on = photos.fitting.labels, describe_fitting(photos)
    rules = fit_rules(logits, labels, recipe.OUTSIDE_KNOWN_SHARE, fitted_on)
    noticed = facts["turn_rule"]["turned_pictures_noticed"]
    weights = calibrated_weights(plain, rules.temperature)
    classifier = Classifier(weights, rules, np.asarray(means, np.float32), upright, noticed)
    measured = measure_outside(photos, classifier)

    facts.pop("compared_with_keras", None)  # measured with the old rules
    test = {
        kind: {name: result[name] for name in LASTING}
        for kind, result in facts.get("test", {}).items()
    }
    facts |= rule_facts(rules) | {
        "temperature": rules.temperature,
        "test": test,
        "outside": measured,
        "backbone_sha256": inspect_backbone(file).digest,
        "provenance": facts["provenance"]
        | {
            "refitted": time.strftime("%Y-%m-%d"),
            "refitted_from_sha256": sha256(file.read_bytes()).hexdigest(),
        },
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary:
        temporary.write_bytes(join_head(file.read_bytes(), weights, classifier.means, upright))
        append_facts(temporary, facts)
    return measured
