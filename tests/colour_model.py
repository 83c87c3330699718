"""Write a tiny model file with the contract of the real one, which tells ten colours apart instead of ten breeds.

    PYTHONPATH=. python tests/colour_model.py MODEL.tflite

A picture's "breed" is the one of COLOURS nearest to the mean colour of its upper left quarter. Where none is near, as
for gray, the similarity is below the threshold: the breed is not known. TensorFlow needs a process of its own.
"""

import sys
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


def write_model(path: Path, size: int = SIZE, breeds: list[str] | None = None) -> None:
    """Convert a Keras model that compares colours, and append its labels and facts."""
    import keras
    import tensorflow as tf
    from keras import ops

    from dog_breeds.facts import append_facts

    breeds = breeds or list(COLOURS)
    colours = tf.constant([COLOURS[breed] for breed in breeds], tf.float32)
    pixels = keras.Input((size, size, 3), 1)
    mean = ops.mean(pixels[:, : size // 2, : size // 2], axis=(1, 2))
    logits = -SHARPNESS * ops.sum((mean[:, None, :] - colours) ** 2, axis=2)
    outputs = [ops.softmax(logits), ops.max(logits, axis=1, keepdims=True)]
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(pixels, outputs))
    path.write_bytes(converter.convert())
    append_facts(path, metadata(breeds, size))


def metadata(breeds: list[str], size: int = SIZE) -> dict:
    """The facts that the handler needs, in the form of the contract."""
    return {
        "format_version": 1,
        "classes": breeds,
        "input": {"height": size, "width": size, "channels": 3, "dtype": "float32", "range": [0, 255], "color": "RGB"},
        "quantization": "float32",
        "temperature": 1.0,
        "photo_share": 0.875,
        "unknown_rule": {"score": "similarity", "threshold": THRESHOLD},
    }


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
