"""Heads: training, search, calibration, and the rules that are fitted on a trained head."""

import numpy as np
import pytest

from dog_breeds import recipe
from dog_breeds.learning import heads, metrics, rules
from dog_breeds.learning.features import Examples, join


@pytest.fixture(autouse=True)
def usual_decay(monkeypatch):
    """Lower the weight decay: the recipe's value is for many features and low learning rates."""
    monkeypatch.setattr(recipe, "MAX_DECAY", 1)


def blobs(n, classes=4, size=8, noise=0.7, seed=0):
    """Return features [n, size] around one corner of a cube for each class, two rows an image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    features = np.eye(classes, size)[labels] + noise * rng.normal(size=(n, size))
    images = np.array([f"{seed}_{row // 2}" for row in range(n)])
    return Examples(features.astype(np.float32), labels, images)


@pytest.mark.parametrize("inner_size", [0, 5])
def test_gradients_are_those_of_finite_differences(inner_size):
    rng = np.random.default_rng(0)
    weights = [array.astype(np.float64) for array in heads.first_weights(inner_size, 4, 8, rng)]
    weights[1::2] = [rng.normal(size=bias.shape) for bias in weights[1::2]]
    batch = (
        rng.normal(size=(30, 8)),
        rng.integers(0, 4, 30),
        rng.uniform(0.5, 2, 30).astype(np.float32),
    )

    def run():
        # The same seed, so that dropout removes the same units each time
        return heads.gradients_of(weights, *batch, 0.3, np.random.default_rng(1))

    _, gradients = run()
    assert [gradient.shape for gradient in gradients] == [weight.shape for weight in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        for index in np.ndindex(weight.shape):
            value, losses = weight[index], []
            for step in (1e-5, -1e-5):
                weight[index] = value + step
                losses.append(run()[0])
            weight[index] = value
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(
                gradient[index], rel=1e-3, abs=1e-6
            )


@pytest.mark.parametrize("inner_size", [0, 5])
def test_the_gradient_of_a_logit_is_that_of_finite_differences(inner_size):
    rng = np.random.default_rng(0)
    weights = heads.first_weights(inner_size, 4, 8, rng)
    features, steps = rng.normal(size=8), 1e-6 * np.eye(8)
    for label in range(4):
        rise = heads.apply_head(weights, features + steps) - heads.apply_head(
            weights, features - steps
        )
        assert heads.logit_gradient(weights, features, label) == pytest.approx(
            rise[:, label] / 2e-6, abs=1e-6
        )


def test_adamw_steps_as_keras_own(in_keras_process):
    rng, rates = np.random.default_rng(0), np.linspace(0.05, 0.001, 20)
    start, gradients = (
        rng.normal(size=(6, 4)).astype(np.float32),
        rng.normal(size=(20, 6, 4)).astype(np.float32),
    )
    weight, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step, rate in enumerate(rates, 1):
        heads.adamw(weight, gradients[step - 1].copy(), m, v, rate, 2.5, step)
    expected = in_keras_process("keras_side", "adamw", start, gradients, rates, 2.5)
    np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(weight - start).max() > 0.1


def test_a_head_learns_and_is_reproducible():
    train, validation = blobs(300, noise=0.4), blobs(100, noise=0.4, seed=1)
    trial = {"learning_rate": 0.05, "inner_size": 6, "dropout": 0.2}
    result, weights = heads.train_head(train, trial, 4, 33, 60, validation)
    history = result["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, 61))
    assert history[-1].items() <= result.items()
    assert result["loss"] < history[0]["loss"] and result["val_loss"] < history[0]["val_loss"]
    logits = heads.apply_head(weights, validation.features)
    temperature = metrics.fit_temperature(logits, validation.labels)
    assert result["val_loss"] == pytest.approx(
        metrics.cross_entropy(logits / temperature, validation.labels)
    )
    assert result["val_accuracy"] == metrics.accuracy(logits, validation.labels) > 0.7

    again, same = heads.train_head(train, trial, 4, 33, 60, validation)
    assert again == result
    assert all((a == b).all() for a, b in zip(weights, same, strict=True))
    other, _ = heads.train_head(train, trial, 4, 34, 60, validation)
    assert other["val_loss"] != result["val_loss"]


def test_each_class_counts_the_same(monkeypatch):
    """With five times the images of one class, the trained head is the same. This is exact only
    without dropout and with a single batch.
    """
    train, trial = blobs(200), {"learning_rate": 0.01, "inner_size": 0, "dropout": 0.0}
    more = join(train, *[train.take(train.labels == 2)] * 4)
    monkeypatch.setattr(recipe, "BATCH_SIZE", 1000)
    (_, once), (_, five_times) = (
        heads.train_head(examples, trial, 4, 0, 20) for examples in (train, more)
    )
    for a, b in zip(once, five_times, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_search_takes_the_lowest_cross_validated_loss(monkeypatch, capsys):
    for name in ("TRIAL_STEPS", "STEPS"):
        monkeypatch.setattr(recipe, name, 4)
    grid = {"learning_rate": (1e-3, 1e-2, 3e-2), "inner_size": (0, 4), "dropout": (0.2,)}
    train, validation = blobs(300), blobs(60, seed=1)
    found = heads.search(train, {"crops": validation, "whole_photos": validation}, grid, 4, 7)
    trials, finalists, winner = found.trials, found.finalists, found.winner

    assert len({tuple(trial[name] for name in grid) for trial in trials}) == len(trials) == 6
    assert [trial["val_loss"] for trial in trials] == sorted(trial["val_loss"] for trial in trials)
    assert {finalist["inner_size"] for finalist in finalists} == {0, 4}
    for finalist in finalists:  # the best trial of its inner size
        best = next(trial for trial in trials if trial["inner_size"] == finalist["inner_size"])
        assert all(finalist[name] == best[name] for name in ("trial", *grid))
    assert winner["val_loss"] == min(finalist["val_loss"] for finalist in finalists)
    both = join(train, validation, validation)
    assert metrics.accuracy(found.held_out_logits, found.labels) == pytest.approx(
        winner["val_accuracy"]
    )
    again, same = heads.cross_validate(both, winner, 4, 7)
    assert again["val_loss"] == winner["val_loss"] and (same == found.held_out_logits).all()
    assert (
        metrics.accuracy(heads.apply_head(found.weights, both.features), both.labels)
        >= winner["val_accuracy"] - 0.05
    )
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(trials) + len(finalists)


def test_cross_validation_holds_out_whole_images():
    """The labels depend only on the image. A head that has seen the other row of an image would
    therefore predict its label.
    """
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(100, 200)).astype(np.float32), 2, axis=0)
    labels = np.repeat(rng.integers(0, 2, 100), 2)
    images = np.repeat([f"image_{i}" for i in range(100)], 2)
    trial = {"learning_rate": 0.01, "inner_size": 0, "dropout": 0.0}
    result, _ = heads.cross_validate(Examples(features, labels, images), trial, 2, 0)
    assert result["val_accuracy"] < 0.7


def test_folds_hold_the_rows_of_an_image_together_and_a_share_of_each_class():
    labels = np.repeat([0] * 10 + [1] * 25, 2)
    images = np.repeat([f"image_{i}" for i in np.random.default_rng(0).permutation(35)], 2)
    parts = heads.folds(Examples(np.zeros((70, 1)), labels, images), 0)
    assert (parts[::2] == parts[1::2]).all()
    for label, images_each in ((0, 2), (1, 5)):
        assert (np.bincount(parts[labels == label]) == 2 * images_each).all()


def fitted(weights, train, validation, outside=None):
    """Return the classifier for a head; the head's own logits replace those of cross-validation."""
    rows = join(train, *validation.values())
    logits = heads.apply_head(weights, rows.features)
    found = heads.Search([], [], weights, logits, rows.labels)
    turned = train._replace(labels=np.arange(len(train.labels)) % 2)
    return heads.fit_classifier(train, validation, turned, found, 0, outside)


def two_views(examples):
    """Return the examples twice: as rows of crops, then as rows of whole photos."""
    images = np.array([f"image_{i}" for i in range(len(examples.labels))])
    return join(examples._replace(images=images), examples._replace(images=images))


def test_calibration_goes_into_the_weights():
    photos, weights = blobs(200, noise=3.0), [np.eye(8, 4) * 5, np.ones(4)]
    classifier = fitted(weights, two_views(photos), {"whole_photos": photos})
    assert classifier.temperature > 1.5
    logits = heads.apply_head(weights, photos.features)
    calibrated = heads.apply_head(classifier.weights, photos.features)
    np.testing.assert_allclose(calibrated, logits / classifier.temperature, 1e-5, 1e-5)


def test_the_rules_are_fitted_on_whole_photos_alone_or_on_photos_from_elsewhere():
    weights = [10 * np.eye(8, 4), np.ones(4)]
    photos, crops = blobs(1000, noise=0.5), blobs(1000, noise=0.1, seed=2)
    images = np.array([f"image_{i}" for i in range(1000)])
    both = [examples._replace(images=images) for examples in (crops, photos)]
    validation = {
        "crops": blobs(300, noise=0.1, seed=3),
        "whole_photos": blobs(300, noise=0.5, seed=4),
    }
    classifier = fitted(weights, join(*both), validation)

    def shares(classifier, examples):
        logits = heads.apply_head(classifier.weights, examples.features)
        return rules.measure_known(logits, examples.labels, classifier.rules)

    new = blobs(3000, noise=0.5, seed=5)
    assert shares(classifier, new)["taken_as_known"] == pytest.approx(recipe.KNOWN_SHARE, abs=0.015)
    assert "1,300 held-out photos" in classifier.rules.fitted_on and classifier.rules.note
    # The same head on harder photos: each rule follows them
    harder = blobs(2000, noise=1.0, seed=6)
    outside = fitted(weights, join(*both), validation, (harder, "harder photos"))
    assert outside.rules.fitted_on == "harder photos" and not outside.rules.note
    assert outside.temperature > classifier.temperature
    result = shares(outside, blobs(3000, noise=1.0, seed=7))
    assert result["taken_as_known"] == pytest.approx(recipe.OUTSIDE_KNOWN_SHARE, abs=0.02)
    level = result["candidates_hold_the_right_class"]
    assert level == pytest.approx(recipe.CANDIDATES_LEVEL, abs=0.015)


def test_the_similarity_is_the_angle_to_the_nearest_class():
    """The means of the two classes lie along two axes. Features in other directions are less
    similar.
    """
    train = Examples(
        np.float32([[2, 0, 0], [4, 0, 0], [0, 1, 0]]),
        np.array([0, 0, 1]),
        np.array(["a", "b", "c"]),
    )
    means = heads.class_means(train)
    np.testing.assert_allclose(means, [[1, 0, 0], [0, 1, 0]])
    features = np.float32([[7, 0, 0], [0, 0.1, 0], [1, 1, 0], [0, 0, 5], [3, 0, 4], [0, 0, 0]])
    np.testing.assert_allclose(
        heads.similarity(features, means), [1, 1, 0.5**0.5, 0, 0.6, 0], atol=1e-6
    )


def test_the_score_of_upright_images_lets_a_fixed_share_of_new_ones_pass():
    def pairs(images, seed):
        """Return an upright and a turned row for each image. The upright row is 2 standard
        deviations further along a diagonal.
        """
        rng = np.random.default_rng(seed)
        features = (
            rng.normal(size=(2 * images, 512)) + np.repeat([[2], [0]], images, axis=0) / 512**0.5
        )
        names = np.tile([f"{seed}_{i}" for i in range(images)], 2)
        return Examples(features.astype(np.float32), np.repeat([1, 0], images), names)

    (kernel, bias), noticed = heads.fit_upright(pairs(1000, seed=0), 0)
    new = pairs(2000, seed=1)
    assert (kernel.shape, bias.shape, kernel.dtype, bias.dtype) == (
        (512, 1),
        (1,),
        np.float32,
        np.float32,
    )
    below = (new.features @ kernel + bias)[:, 0] < 0
    assert below[new.labels == 1].mean() == pytest.approx(1 - recipe.UPRIGHT_SHARE, abs=0.015)
    assert below[new.labels == 0].mean() == pytest.approx(noticed, abs=0.05)
    assert (
        0.1 < noticed < 0.55
    )  # 0.55: the best possible share for normal variables 2 standard deviations apart
