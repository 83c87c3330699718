"""Write a tiny model file with the contract of the real one, which tells ten colours apart instead
of ten breeds.

    PYTHONPATH=. python tests/colour_model.py MODEL.tflite EXPLAINING.tflite

An image's "breed" is the one of COLOURS nearest to the mean colour of its upper left quarter.
Where none is near, as for gray, the similarity is below the threshold: the breed is not known, and
the image seems to be turned. The second has candidates and a map: each of its cells speaks for
the breed of its own colour. TensorFlow needs a process of its own.
"""

import sys
import zipfile
from pathlib import Path

SIZE = 299
COLOURS = {
    "afghan_hound": (220, 40, 40),
    "bernese_mountain_dog": (40, 180, 40),
    "great_pyrenees": (250, 250, 250),
    "irish_wolfhound": (20, 20, 20),
    "leonberg": (230, 140, 20),
    "maltese_dog": (40, 60, 220),
    "pomeranian": (240, 230, 40),
    "samoyed": (30, 210, 220),
    "scottish_deerhound": (200, 40, 200),
    "shih_tzu": (110, 60, 20),
}
SHARPNESS = 0.002  # logits per squared distance
THRESHOLD = -6.0  # of the similarity: the mean colour may be some 55 off the nearest of COLOURS


def write_model(
    path: Path, size: int = SIZE, breeds: list[str] | None = None, with_map: bool = False
) -> None:
    """Convert a Keras model that compares colours, and append its labels and facts."""
    import keras
    import tensorflow as tf
    from keras import ops

    from dog_breeds.serving.facts import append_facts

    breeds = breeds or list(COLOURS)
    colours = tf.constant([COLOURS[breed] for breed in breeds], tf.float32)
    pixels = keras.Input((size, size, 3), 1)
    mean = ops.mean(pixels[:, : size // 2, : size // 2], axis=(1, 2))
    logits = -SHARPNESS * ops.sum((mean[:, None, :] - colours) ** 2, axis=2)
    similarity = ops.max(logits, axis=1, keepdims=True)
    outputs = {
        "probabilities": ops.softmax(logits),
        "similarity": similarity,
        "upright": similarity - THRESHOLD,
    }
    if with_map:
        side = size // 10
        cells = ops.average_pool(pixels[:, : 10 * side, : 10 * side], side, side)
        near = ops.exp(-SHARPNESS * ops.sum((cells[:, :, :, None] - colours) ** 2, axis=4))
        outputs["map"] = ops.pad(near, ((0, 0), (0, 0), (0, 0), (0, 2048 - len(breeds))))
    content = tf.lite.TFLiteConverter.from_keras_model(keras.Model(pixels, outputs)).convert()
    path.write_bytes(with_names(content, len(breeds)))
    candidates = {"candidates": {"threshold": 0.1}} if with_map else {}
    append_facts(path, metadata(breeds, size) | candidates)


def with_facts(model: Path, path: Path, **facts: object) -> Path:
    """Write a colour model with other facts than its own."""
    from dog_breeds.serving.facts import append_facts

    with zipfile.ZipFile(model) as archive:
        path.write_bytes(
            model.read_bytes()[: min(entry.header_offset for entry in archive.infolist())]
        )
    append_facts(path, metadata(list(COLOURS)) | facts)
    return path


def with_names(content: bytes, classes: int) -> bytes:
    """Return a model whose outputs are named as in the contract, with a constant "kernel" beside
    them.
    """
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    for output in model.signatureDefs[0].outputs:
        graph.tensors[output.tensorIndex].name = output.name
    kernel = np.eye(classes, 2048, dtype=np.float32)
    model.buffers.append(schema.BufferT(data=np.frombuffer(kernel.tobytes(), np.uint8)))
    shape, buffer = list(kernel.shape), len(model.buffers) - 1
    graph.tensors.append(schema.TensorT(name="kernel", shape=shape, hasRank=True, buffer=buffer))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def metadata(breeds: list[str], size: int = SIZE) -> dict:
    """The facts that the handler needs, in the form of the contract."""
    return {
        "format_version": 1,
        "classes": breeds,
        "input": {
            "height": size,
            "width": size,
            "channels": 3,
            "dtype": "float32",
            "range": [0, 255],
            "color": "RGB",
        },
        "quantization": "float32",
        "temperature": 1.0,
        "photo_share": 0.875,
        "unknown_rule": {"score": "similarity", "threshold": THRESHOLD},
    }


if __name__ == "__main__":
    for path, with_map in zip(sys.argv[1:], (False, True), strict=True):
        write_model(Path(path), with_map=with_map)
