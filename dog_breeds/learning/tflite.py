"""Model files (.tflite): run them on images, extract their backbone, and add a head to a backbone.

Do not import this module in a process that loads TensorFlow: the serving runtime crashes there.
"""

import functools
import hashlib
import importlib
import queue
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import (
    schema_py_generated as schema,  # loads no runtime, like flatbuffer_utils
)
from ai_edge_litert.tools import flatbuffer_utils

from dog_breeds.console import quiet
from dog_breeds.serving.cpus import cpu_count, why_slow
from dog_breeds.workers import map_in_threads

RUNTIME = "ai_edge_litert"  # the runtime of the service
FIRST_OF_HEAD = (b"inner_kernel", b"kernel")  # names of the first tensor of a head
DENSE = ("inner_kernel", "inner_bias", "kernel", "bias", "upright_kernel", "upright_bias")


# --- Run ------------------------------------------------------------------------------------------


def load_file(file: Path, runtime: str = RUNTIME) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from pixels [size, size, 3], RGB 0..255, to the outputs of a model file.

    The outputs are a dict by name, without the batch axis. Each returned function has its own
    interpreter with a single thread. Two threads must not call the same function at once.
    """
    interpreter = _open_interpreter(file, runtime)
    pixels = interpreter.get_input_details()[0]["index"]
    outputs = {output["name"]: output["index"] for output in interpreter.get_output_details()}

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(pixels, image[None].astype(np.float32))
        interpreter.invoke()
        return {name: interpreter.get_tensor(index)[0] for name, index in outputs.items()}

    return run


@functools.cache
def print_if_slow(file: Path) -> None:
    """Print the reason, once for each file, if inference with this file will be slow."""
    sentence = why_slow(_open_interpreter(file, RUNTIME))
    if sentence:
        print(sentence, flush=True)


def _open_interpreter(file: Path, runtime: str) -> Any:
    """Return an interpreter with one thread and allocated tensors."""
    with quiet():  # the runtime prints the name of its delegate
        interpreter = importlib.import_module(f"{runtime}.interpreter").Interpreter(
            str(file), num_threads=1
        )
        interpreter.allocate_tensors()
    return interpreter


def run_file(
    file: Path,
    images: Sequence[Any],
    load: Callable[[Any], np.ndarray],
    names: Sequence[str],
    runtime: str = RUNTIME,
) -> Iterator[list[np.ndarray]]:
    """Yield the outputs `names` of a model file for each image, in the order of `images`.

    `load` returns the pixels of an image. Each CPU has a thread with its own interpreter. `invoke`
    releases the GIL, so the threads run in parallel. Two interpreters with one thread each are
    faster than one interpreter with two threads. Raises the exceptions of `load`.
    """
    idle = queue.SimpleQueue()  # interpreters that no thread is using
    for _ in range(min(cpu_count(), len(images))):
        idle.put(load_file(file, runtime))

    def answer(image: Any) -> list[np.ndarray]:
        pixels, run = load(image), idle.get()
        try:
            outputs = run(pixels)
        finally:
            idle.put(run)
        return [outputs[name] for name in names]

    yield from map_in_threads(answer, images)


# --- The backbone and the head --------------------------------------------------------------------


class Backbone(NamedTuple):
    """The facts that training needs about the backbone of a model file."""

    digest: str  # SHA-256 of the result of `cut_backbone`: without the head and the file's facts
    size: int  # height and width of its input, in pixels
    width: int  # number of its features


def inspect_backbone(file: Path) -> Backbone:
    """Return the digest and the sizes of the backbone of a model file.

    The first call for a file takes a second; further calls use a cache. Raises ValueError if the
    file has no backbone.
    """
    status = file.stat()
    return _inspect(file, status.st_mtime_ns, status.st_size)


@lru_cache
def _inspect(file: Path, *_: int) -> Backbone:
    try:
        backbone = cut_backbone(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    graph = schema.Model.GetRootAs(backbone).Subgraphs(0)
    pixels, features = graph.Tensors(graph.Inputs(0)), graph.Tensors(graph.Outputs(0))
    digest = hashlib.sha256(backbone).hexdigest()
    return Backbone(digest, int(pixels.Shape(1)), int(features.Shape(1)))


def cut_backbone(content: bytes) -> bytes:
    """Return the backbone of a model file as a model file with the outputs "features" and "map".

    Files with the same backbone give the same bytes, even if their heads and facts differ.
    """
    model, features, maps = _read_backbone(content)
    _set_outputs(model, features=features, map=maps)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def join_head(
    backbone: bytes, head: Sequence[np.ndarray], means: np.ndarray, upright: Sequence[np.ndarray]
) -> bytes:
    """Return the backbone of a model file with a new head; an old head is removed.

    `head` holds kernel [in, out] and bias [out] of each dense layer. All layers except the last
    have a RELU. `means` [N, D] are the mean features of the classes, of length 1. `upright` holds
    kernel [D, 1] and bias [1] of the score of upright images.

    All outputs are float32: probabilities [1, N], logit (the highest) [1, 1], similarity to the
    nearest mean [1, 1], upright [1, 1], features [1, D], map [1, h, w, D]. Raises ValueError if the
    backbone has another number of features than `means`.
    """
    model, features, maps = _read_backbone(backbone)
    graph = model.subgraphs[0]
    width = graph.tensors[features].shape[1]
    if width != means.shape[1]:
        raise ValueError(f"the backbone has {width} features, the head takes {means.shape[1]}")

    def tensor(name: str, shape: tuple[int, ...], values: np.ndarray | None = None) -> int:
        # The default type 0 is float32. The default buffer 0 is empty: an operator computes it.
        new = schema.TensorT(name=name, shape=list(shape), hasRank=True)
        if values is not None:
            new.type = getattr(schema.TensorType, values.dtype.name.upper())
            new.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    def constant(name: str, values: np.ndarray, dtype: type = np.float32) -> int:
        return tensor(name, values.shape, np.ascontiguousarray(values, dtype))

    def operator(
        kind: str, options: object, inputs: list[int], name: str, shape: tuple[int, ...]
    ) -> int:
        code = getattr(schema.BuiltinOperator, kind)
        model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code)
        )
        options_type = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        new = schema.OperatorT(
            len(model.operatorCodes) - 1, inputs, [tensor(name, shape)], options_type, options
        )
        graph.operators.append(new)
        return new.outputs[0]

    x = features
    *inner, (kernel, bias) = zip(head[::2], head[1::2], strict=True)
    for inner_kernel, inner_bias in inner:
        inputs = [x, constant("inner_kernel", inner_kernel.T), constant("inner_bias", inner_bias)]
        relu = schema.FullyConnectedOptionsT(
            fusedActivationFunction=schema.ActivationFunctionType.RELU
        )
        x = operator("FULLY_CONNECTED", relu, inputs, "inner", (1, len(inner_bias)))
    n, dense = len(bias), schema.FullyConnectedOptionsT
    inputs = [x, constant("kernel", kernel.T), constant("bias", bias)]
    logits = operator("FULLY_CONNECTED", dense(), inputs, "logits", (1, n))
    probabilities = operator(
        "SOFTMAX", schema.SoftmaxOptionsT(beta=1.0), [logits], "probabilities", (1, n)
    )
    axis = tensor("last_axis", (1,), np.array([1], np.int32))
    highest = schema.ReducerOptionsT(keepDims=True)
    logit = operator("REDUCE_MAX", highest, [logits, axis], "logit", (1, 1))
    unit = operator(
        "L2_NORMALIZATION", schema.L2NormOptionsT(), [features], "unit", (1, means.shape[1])
    )
    # float16 is precise enough for cosines, and takes half the size of float32
    means16 = constant("means", means, np.float16)
    means32 = operator(
        "DEQUANTIZE", schema.DequantizeOptionsT(), [means16], "whole_means", means.shape
    )
    cosines = operator("FULLY_CONNECTED", dense(), [unit, means32, -1], "cosines", (1, n))
    similarity = operator("REDUCE_MAX", highest, [cosines, axis], "similarity", (1, 1))

    upright_kernel, upright_bias = upright
    inputs = [
        features,
        constant("upright_kernel", upright_kernel.T),
        constant("upright_bias", upright_bias),
    ]
    upright_score = operator("FULLY_CONNECTED", dense(), inputs, "upright", (1, 1))

    scores = {"logit": logit, "similarity": similarity, "upright": upright_score}
    _set_outputs(model, probabilities=probabilities, **scores, features=features, map=maps)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _read_backbone(content: bytes) -> tuple[schema.ModelT, int, int]:
    """Return the network of a model file without its head, and the indices of "features" and "map".

    `join_head` appends to every list, so the head is always at the end. Raises ValueError for files
    without a backbone.
    """
    if content[4:8] != b"TFL3":
        raise ValueError("no TensorFlow Lite file")
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    outputs = {graph.tensors[index].name.decode(): index for index in graph.outputs}
    if not {"features", "map"} <= outputs.keys():
        raise ValueError(f"no backbone: the outputs are {', '.join(sorted(outputs))}")
    features = outputs["features"]
    names = [tensor.name for tensor in graph.tensors]
    first = next((i for i, name in enumerate(names) if name in FIRST_OF_HEAD), None)
    if first is not None:
        last = next(i for i, operator in enumerate(graph.operators) if features in operator.outputs)
        buffers = [tensor.buffer for tensor in graph.tensors[first:] if tensor.buffer]
        del graph.operators[last + 1 :], graph.tensors[first:], model.buffers[min(buffers) :]
        del model.operatorCodes[1 + max(operator.opcodeIndex for operator in graph.operators) :]
    return model, features, outputs["map"]


def _set_outputs(model: schema.ModelT, **outputs: int) -> None:
    model.subgraphs[0].outputs = list(outputs.values())
    model.signatureDefs[0].outputs = [schema.TensorMapT(*pair) for pair in outputs.items()]


def read_head(file: Path) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return the arguments `head`, `means` and `upright` that `join_head` stored in a file.

    The means are float16. Raises ValueError if the file has no head.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(file.read_bytes()))
    arrays = {
        tensor.name.decode(): np.frombuffer(
            bytes(model.buffers[tensor.buffer].data), (np.float32, np.float16)[tensor.type]
        ).reshape(tensor.shape)
        for tensor in model.subgraphs[0].tensors
        if tensor.name in (b"means", *(name.encode() for name in DENSE))
    }
    if "means" not in arrays:
        raise ValueError(f"{file} holds a backbone without a head")
    dense = {name: arrays[name].T for name in DENSE if name in arrays}
    upright = [dense.pop(name) for name in DENSE[-2:]]
    return list(dense.values()), arrays["means"], upright
