"""Xception in Keras: conversion to the int8 backbone file, and the .h5 file of a whole classifier.

Only this module loads TensorFlow. The serving runtime crashes in a process that loads TensorFlow,
so other modules call these functions in a separate process with `workers.call_in_new_process`.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import (
    schema_py_generated as schema,  # loads no runtime, like flatbuffer_utils
)
from ai_edge_litert.tools import flatbuffer_utils

from dog_breeds import recipe
from dog_breeds.console import quiet, with_progress
from dog_breeds.learning.features import View, load_pixels

os.environ["KERAS_BACKEND"] = "tensorflow"  # the user's other projects may use another backend
with quiet():  # TensorFlow prints messages about its log and missing GPUs
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()  # triggers the messages about GPUs while they are silenced
keras.config.set_image_data_format("channels_last")  # ~/.keras/keras.json may say otherwise
keras.config.set_floatx("float32")

BATCH = 10  # images per batch in Keras; larger batches are not faster on a CPU


# --- The backbone file ----------------------------------------------------------------------------


def write_backbone(weights: Path, size: int, views: Sequence[View], path: Path) -> None:
    """Write the backbone as .tflite.

    The backbone is int8 if there are `views`, which set its ranges, and float32 otherwise. The
    input is pixels 0..255. The outputs are "map", float32 [1, h, w, D], and "features", float32
    [1, D], the mean of the map over its cells.
    """
    with quiet():  # the converter prints every variable
        content = convert(load_xception(weights, size), views)
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    if views:
        fuse_relus(model)
    graph = model.subgraphs[0]
    # Identify the outputs by shape: features have 2 dimensions, the map has 4
    graph.outputs = sorted(graph.outputs, key=lambda output: len(graph.tensors[output].shape))
    for name, output in zip(("features", "map"), graph.outputs, strict=True):
        graph.tensors[output].name = name
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def load_xception(weights: Path, size: int) -> keras.Model:
    """Return the recipe's backbone without its top, for rescaled images of size x size pixels.

    Raises ValueError if the weights are damaged or belong to another backbone.
    """
    build = getattr(keras.applications, recipe.BACKBONE)
    xception = build(weights=None, include_top=False, input_shape=(size, size, 3))
    try:
        xception.load_weights(weights)
    except Exception as error:  # h5py and Keras raise many kinds of exception for a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{weights} does not hold the weights of {recipe.BACKBONE} ({reason}); delete it and "
            "run make_dataset.py again"
        ) from None
    xception.trainable = False
    return xception


def features_and_map(
    xception: keras.Model, pixels: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the features [n, D] and the map [n, h, w, D] of pixels 0..255 [n, size, size, 3]."""
    scaled = keras.layers.Rescaling(*recipe.RESCALING, name="scale")(pixels)
    maps = xception(scaled)
    return keras.layers.GlobalAveragePooling2D(name="features")(maps), maps


def convert(xception: keras.Model, views: Sequence[View]) -> bytes:
    """Return the backbone for a batch of one image as a TensorFlow Lite flatbuffer."""
    size = xception.input.shape[1]
    pixels = keras.Input(batch_shape=(1, size, size, 3))
    converter = tf.lite.TFLiteConverter.from_keras_model(
        keras.Model(pixels, features_and_map(xception, pixels))
    )
    if not views:
        return converter.convert()

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    calm = calm_half(xception, views)
    converter.representative_dataset = lambda: (
        [load_pixels(view, size)[None].astype(np.float32)] for view in calm
    )
    # The mean stays float32. In int8, one step would be 1/256 of the range of all features. Most
    # features would be rounded to 0.
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=["MEAN"])
    debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=options)
    return debugger.get_nondebug_quantized_model()


def calm_half(xception: keras.Model, views: Sequence[View]) -> list[View]:
    """Return the half of the views with the lowest maximum activation.

    In about one photo of thirty, a single channel of block 5 rises far above all other channels,
    and all later blocks follow. The int8 ranges span all activations of the calibration images.
    With such photos among these images, the 256 steps are too coarse for all other photos.
    Without them, the ranges clip the activations of such photos, but their predicted breed stays
    the same.
    """
    # Each residual block ends with a sum
    sums = [layer.output for layer in xception.layers if isinstance(layer, keras.layers.Add)]
    # Backbones without sums: use the final output
    blocks = keras.Model(xception.input, sums or [xception.output])
    size, scale = xception.input.shape[1], keras.layers.Rescaling(*recipe.RESCALING)
    inputs = (scale(load_pixels(view, size)[None]) for view in views)
    peaks = [max(np.abs(output).max() for output in blocks.predict_on_batch(x)) for x in inputs]
    return [views[i] for i in np.argsort(peaks)[: len(views) // 2]]


def fuse_relus(model: schema.ModelT) -> None:
    """Replace each RELU of a sum by a second ADD of the same two tensors with a fused RELU.

    XNNPACK has no separate RELU for int8. The RELUs at the start of blocks 3 to 13 would cut the
    network into 13 pieces and slow it down; benchmarks/model_file.py measures by how much. The
    first ADD stays, because the block's other branch needs the sum without RELU.
    """
    adds = {}  # by the index of their output tensor
    for operator in model.subgraphs[0].operators:  # in the order of execution
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code == schema.BuiltinOperator.ADD:
            adds[operator.outputs[0]] = operator
        elif code == schema.BuiltinOperator.RELU and operator.inputs[0] in adds:
            add = adds[operator.inputs[0]]
            operator.opcodeIndex, operator.inputs = add.opcodeIndex, add.inputs
            operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
            operator.builtinOptions = schema.AddOptionsT(
                fusedActivationFunction=schema.ActivationFunctionType.RELU
            )


# --- The whole model ------------------------------------------------------------------------------


def save_model(
    weights: Path,
    size: int,
    head: Sequence[np.ndarray],
    means: np.ndarray,
    upright: Sequence[np.ndarray],
    path: Path,
) -> None:
    """Write the whole classifier as a Keras .h5 file.

    `head` holds kernel and bias of each dense layer. `means` [N, 2048] are the mean features of the
    classes. `upright` holds kernel and bias of the score of upright images. The input is pixels
    0..255, float32 [n, size, size, 3]. The outputs are those of the .tflite file except features
    and map: probabilities [n, N], the highest logit [n, 1], similarity [n, 1] and upright [n, 1].
    """

    def dense(name: str, x: keras.KerasTensor, *arrays: np.ndarray) -> keras.KerasTensor:
        layer = keras.layers.Dense(
            arrays[0].shape[1],
            "relu" if name == "inner" else None,
            use_bias=len(arrays) > 1,
            name=name,
        )
        output = layer(x)  # creates the weights
        layer.set_weights(arrays)
        return output

    def highest(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
        # .h5 files can hold only layers, so a pooling layer computes the maximum
        column = keras.layers.Reshape((len(means), 1))(x)
        return keras.layers.GlobalMaxPooling1D(name=name)(column)

    inputs = keras.Input((size, size, 3), name="pixels")
    features, _ = features_and_map(load_xception(weights, size), inputs)
    similarity = highest(
        "similarity", dense("cosines", keras.layers.UnitNormalization()(features), means.T)
    )
    upright_score = dense("upright", features, *upright)
    x = dense("inner", features, *head[:2]) if len(head) > 2 else features
    logits = dense("logits", x, *head[-2:])
    probabilities = keras.layers.Softmax(name="probabilities")(logits)
    outputs = [probabilities, highest("logit", logits), similarity, upright_score]
    # Keras warns that .h5 is its older format, but users of this file expect .h5
    logging.disable(logging.WARNING)
    keras.Model(inputs, outputs, name="dog_breeds").save(path)
    logging.disable(logging.NOTSET)


def predict(
    path: Path, kernel: np.ndarray, views: dict[str, list[View]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Run a saved .h5 file on the views of each kind.

    Return for each kind the probabilities float32 [n, N] and the highest logits [n]. Raises
    ValueError if the file is damaged, or if `kernel` [D, N] differs from that of its last layer.
    """
    try:
        model = keras.models.load_model(path, compile=False)
        same = np.array_equal(model.get_layer("logits").get_weights()[0], kernel)
    except Exception:  # h5py and Keras raise many kinds of exception for a damaged file
        same = False
    if not same:
        raise ValueError(f"{path} does not match its report; run training.py again")
    size, results = model.input.shape[1], {}
    for kind, kind_views in views.items():
        batches = [kind_views[start : start + BATCH] for start in range(0, len(kind_views), BATCH)]
        label = f"{path.name}, {kind.replace('_', ' ')}"
        pixels = (np.stack([load_pixels(view, size) for view in batch]) for batch in batches)
        rows = with_progress(map(model.predict_on_batch, pixels), label, len(batches), "batches")
        probabilities, logits, *_ = map(np.concatenate, zip(*rows, strict=True))
        results[kind] = probabilities, logits[:, 0]
    return results
