"""Functions that tests call in the process of the fixture `in_keras_process`, which loads Keras."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import make_dataset
from dog_breeds import workers
from dog_breeds.learning import xception
from dog_breeds.learning.features import View, load_pixels
from dog_breeds.learning.xception import keras


def fresh(module: str, function: str, *arguments: Any) -> Any:
    """Return the result of a function as in a new process.

    In a new process, Keras numbers its layers from 0, and files contain these numbers.
    """
    keras.backend.clear_session()
    return workers._call(module, function, *arguments)


def weights_digest(weights: Path) -> str:
    """Return the digest with which make_dataset.py checks weights."""
    model = keras.applications.Xception(weights=None, include_top=False)
    model.load_weights(weights)
    return make_dataset.weights_digest(model)


def write_other_weights(path: Path) -> None:
    """Write a model that contains another model with the name "xception"."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="xception")
    keras.Sequential([inner]).save(path)


def answers(model: Path, views: Sequence[View]) -> dict[str, np.ndarray]:
    """Return the outputs of a saved model in plain Keras, and its inner "features"."""
    loaded = keras.models.load_model(model, compile=False)
    names = ("probabilities", "logit", "similarity", "upright", "features")
    whole = keras.Model(loaded.input, {name: loaded.get_layer(name).output for name in names})
    pixels = np.stack([load_pixels(view, loaded.input.shape[1]) for view in views]).astype(
        np.float32
    )
    return whole.predict(pixels, verbose=0)


def xception_features(weights: Path, size: int, views: Sequence[View]) -> np.ndarray:
    """Return the features of views from Keras' own Xception, with Keras' own scaling."""
    model = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg"
    )
    model.load_weights(weights)
    pixels = np.stack([load_pixels(view, size) for view in views]).astype(np.float32)
    return model.predict(keras.applications.xception.preprocess_input(pixels), verbose=0)


def write_unfused(
    weights: Path, size: int, views: Sequence[View], path: Path, unfused: Path
) -> None:
    """Write the int8 backbone to `path`, and its state before the RELUs are fused to `unfused`."""
    fuse = xception.fuse_relus

    def keep(model: object) -> None:
        unfused.write_bytes(xception.flatbuffer_utils.convert_object_to_bytearray(model))
        fuse(model)

    with mock.patch.object(xception, "fuse_relus", keep):
        xception.write_backbone(weights, size, views, path)


def calm_half(weights: Path, size: int, views: Sequence[View], wild: View) -> list[View]:
    """Return the views for calibration if the pixels of one view are a thousand times as bright."""
    with mock.patch.object(
        xception,
        "load_pixels",
        lambda view, size: load_pixels(view, size) * 1000.0 ** (view == wild),
    ):
        return xception.calm_half(xception.load_xception(weights, size), views)


def adamw(
    start: np.ndarray, gradients: Sequence[np.ndarray], rates: Sequence[float], decay: float
) -> np.ndarray:
    """Return a weight after steps of Keras' AdamW, one for each gradient and learning rate."""
    optimizer, weight = keras.optimizers.AdamW(weight_decay=decay), keras.Variable(start)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([gradient], [weight])
    return weight.numpy()
