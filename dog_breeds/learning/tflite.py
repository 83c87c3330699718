"""Model files: run on pictures, and given a head. Never beside TensorFlow, with which the serving
runtime crashes.
"""

import functools
import importlib
import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import (
    schema_py_generated as schema,  # like flatbuffer_utils free of the runtime
)
from ai_edge_litert.tools import flatbuffer_utils

from dog_breeds.console import quiet
from dog_breeds.serving.cpus import cpu_count, why_slow
from dog_breeds.workers import in_threads

RUNTIME = "ai_edge_litert"  # the one that serves
FIRST_OF_HEAD = (b"inner_kernel", b"kernel")  # the tensor with which a head begins
DENSE = ("inner_kernel", "inner_bias", "kernel", "bias", "upright_kernel", "upright_bias")


# --- Run ------------------------------------------------------------------------------------------


def load_file(file: Path, runtime: str = RUNTIME) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from pixels [size, size, 3], RGB 0..255, to a model file's outputs by name,
    without batch axis.

    Each has an interpreter, of one thread, of its own: not for two threads at once.
    """
    interpreter = _open_interpreter(file, runtime)
    pixels = interpreter.get_input_details()[0]["index"]
    outputs = {output["name"]: output["index"] for output in interpreter.get_output_details()}

    def run(picture: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(pixels, picture[None].astype(np.float32))
        interpreter.invoke()
        return {name: interpreter.get_tensor(index)[0] for name, index in outputs.items()}

    return run


@functools.cache
def print_if_slow(file: Path) -> None:
    """Print a sentence, once for each file, if inference with it is going to be slow, and why."""
    sentence = why_slow(_open_interpreter(file, RUNTIME))
    if sentence:
        print(sentence, flush=True)


def _open_interpreter(file: Path, runtime: str) -> Any:
    """Return an interpreter of one thread with its tensors allocated."""
    with quiet():  # it announces its delegate
        interpreter = importlib.import_module(f"{runtime}.interpreter").Interpreter(
            str(file), num_threads=1
        )
        interpreter.allocate_tensors()
    return interpreter


def run_file(
    file: Path,
    pictures: Sequence[Any],
    load: Callable[[Any], np.ndarray],
    names: Sequence[str],
    runtime: str = RUNTIME,
) -> Iterator[list[np.ndarray]]:
    """Yield a model file's outputs of these names for each picture, in order; `load` gives a
    picture's pixels.

    A thread for each CPU has an interpreter of its own: `invoke` lets the others go on, and one
    thread in each of two interpreters does more than two in one. Raises what `load` raises.
    """
    idle = queue.SimpleQueue()
    for _ in range(min(cpu_count(), len(pictures))):
        idle.put(load_file(file, runtime))

    def answer(picture: Any) -> list[np.ndarray]:
        pixels, run = load(picture), idle.get()
        try:
            outputs = run(pixels)
        finally:
            idle.put(run)
        return [outputs[name] for name in names]

    yield from in_threads(answer, pictures)


# --- The head -------------------------------------------------------------------------------------


def join_head(
    backbone: bytes, head: Sequence[np.ndarray], means: np.ndarray, upright: Sequence[np.ndarray]
) -> bytes:
    """Return a backbone file's flatbuffer with a head: probabilities, similarity, upright,
    features, map.

    `head` holds kernel [in, out] and bias [out] of each dense layer, all but the last with a RELU;
    `means` the mean features of the classes [N, D], of length 1; `upright` kernel [D, 1] and bias
    [1]. The outputs are float32 [1, N], [1, 1], [1, 1], [1, D] and [1, h, w, D]. A head that is
    there already is cut off, so that any file of this project serves as the backbone.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(backbone))
    graph = model.subgraphs[0]
    outputs = {graph.tensors[index].name.decode(): index for index in graph.outputs}
    shape = list(graph.tensors[outputs["features"]].shape) if "features" in outputs else []
    if "map" not in outputs or shape != [1, means.shape[1]]:
        raise ValueError(f"no backbone: the outputs are {', '.join(sorted(outputs))}")
    features = outputs["features"]
    cut_head(model, features)

    def tensor(name: str, shape: tuple[int, ...], values: np.ndarray | None = None) -> int:
        new = schema.TensorT(
            name=name, shape=list(shape), hasRank=True
        )  # type 0: float32, buffer 0: no content
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
    unit = operator(
        "L2_NORMALIZATION", schema.L2NormOptionsT(), [features], "unit", (1, means.shape[1])
    )
    means16 = constant("means", means, np.float16)  # enough for cosines, and half as large
    means32 = operator(
        "DEQUANTIZE", schema.DequantizeOptionsT(), [means16], "whole_means", means.shape
    )
    cosines = operator("FULLY_CONNECTED", dense(), [unit, means32, -1], "cosines", (1, n))
    axis = tensor("last_axis", (1,), np.array([1], np.int32))
    highest = schema.ReducerOptionsT(keepDims=True)
    similarity = operator("REDUCE_MAX", highest, [cosines, axis], "similarity", (1, 1))

    upright_kernel, upright_bias = upright
    inputs = [
        features,
        constant("upright_kernel", upright_kernel.T),
        constant("upright_bias", upright_bias),
    ]
    upright_score = operator("FULLY_CONNECTED", dense(), inputs, "upright", (1, 1))

    graph.outputs = [probabilities, similarity, upright_score, features, outputs["map"]]
    names = ("probabilities", "similarity", "upright", "features", "map")
    model.signatureDefs[0].outputs = [
        schema.TensorMapT(*pair) for pair in zip(names, graph.outputs, strict=True)
    ]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def cut_head(model: schema.ModelT, features: int) -> None:
    """Take away what `join_head` has put behind the tensor of the features: it stands at the end of
    every list.
    """
    graph = model.subgraphs[0]
    first = next(
        (i for i, tensor in enumerate(graph.tensors) if tensor.name in FIRST_OF_HEAD), None
    )
    if first is None:
        return
    last = next(i for i, operator in enumerate(graph.operators) if features in operator.outputs)
    buffers = [tensor.buffer for tensor in graph.tensors[first:] if tensor.buffer]
    del graph.operators[last + 1 :], graph.tensors[first:], model.buffers[min(buffers) :]
    del model.operatorCodes[1 + max(operator.opcodeIndex for operator in graph.operators) :]


def read_head(file: Path) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return the head, the means and the score of upright pictures that `join_head` has put into a
    file.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(file.read_bytes()))
    arrays = {
        tensor.name.decode(): np.frombuffer(
            bytes(model.buffers[tensor.buffer].data), (np.float32, np.float16)[tensor.type]
        ).reshape(tensor.shape)
        for tensor in model.subgraphs[0].tensors
        if tensor.name in (b"means", *(name.encode() for name in DENSE))
    }
    dense = {name: arrays[name].T for name in DENSE if name in arrays}
    upright = [dense.pop(name) for name in DENSE[-2:]]
    return list(dense.values()), arrays["means"], upright
