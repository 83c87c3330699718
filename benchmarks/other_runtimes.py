"""Convert a model file's network for other runtimes: to ONNX, and to 7-bit weights. Nothing to run.

Needs     the packages onnx, onnxruntime and openvino, which the project itself does not need."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Run = Callable[[np.ndarray], np.ndarray]  # float32 [1, size, size, 3] to features, float32 [D]
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
SAME = 0  # padding


def read_model(file: Path) -> schema.ModelT:
    """Return the content of a model file as objects."""
    return flatbuffer_utils.convert_bytearray_to_object(bytearray(file.read_bytes()))


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return the name of an operator, such as CONV_2D."""
    return OPERATORS[model.operatorCodes[operator.opcodeIndex].builtinCode]


def array_of(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return the content of a constant int8 or int32 tensor."""
    dtype = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}[tensor.type]
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape)


def with_7_bit_weights(file: Path) -> bytes:
    """Return a model file whose int8 weights are halved and rounded, with doubled scales.

    A sum of two products of such a weight and an 8-bit activation fits into 16 bits."""
    model = read_model(file)
    graph = model.subgraphs[0]
    done = set()
    for operator in graph.operators:
        if operator_name(model, operator) not in CONVOLUTIONS:
            continue
        for index in operator.inputs[1:3]:  # weights and bias, with linked scales
            tensor = graph.tensors[index]
            if index not in done:
                halved = np.round(array_of(model, tensor) / 2)
                buffer = schema.BufferT(data=_bytes(halved.astype(array_of(model, tensor).dtype)))
                model.buffers.append(buffer)  # other tensors may share the old buffer
                tensor.buffer = len(model.buffers) - 1
                tensor.quantization.scale = np.asarray(tensor.quantization.scale) * 2
                done.add(index)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def to_onnx(file: Path) -> bytes:
    """Return the backbone of a model file as ONNX: pixels to features, int8 up to the feature map.

    Activations move from int8 to uint8, for which ONNX Runtime has its fastest kernels on x86-64.
    Raises KeyError for an operator that no backbone of this project has."""
    from onnx import TensorProto, helper, numpy_helper

    model = read_model(file)
    graph = model.subgraphs[0]
    nodes, constants = [], {}

    def constant(name: str, values: np.ndarray) -> str:
        constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def quantization(index: int) -> list[str]:
        """Return the names of the scale and the zero point of an activation."""
        found = graph.tensors[index].quantization
        return [
            constant(f"scale{index}", np.float32(found.scale[0])),
            constant(f"zero{index}", np.uint8(found.zeroPoint[0] + 128)),
        ]

    def node(kind: str, inputs: list[str], output: str, domain: str = "", **fields: object) -> None:
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **fields))

    def pads(operator: schema.OperatorT, sides: tuple[int, int], strides: list[int]) -> list[int]:
        """Return the padding of TensorFlow: the odd pixel goes to the end."""
        if operator.builtinOptions.padding != SAME:
            return [0, 0, 0, 0]
        shape = graph.tensors[operator.inputs[0]].shape[1:3]
        total = [
            max((-(-length // stride) - 1) * stride + side - length, 0)
            for length, side, stride in zip(shape, sides, strides, strict=True)
        ]
        return [both // 2 for both in total] + [both - both // 2 for both in total]

    size = int(graph.tensors[graph.inputs[0]].shape[1])
    for operator in graph.operators:
        name = operator_name(model, operator)
        source, target = operator.inputs[0], operator.outputs[0]
        options = operator.builtinOptions
        if name == "QUANTIZE":
            node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
            node("QuantizeLinear", ["planes", *quantization(target)], f"t{target}")
        elif name in CONVOLUTIONS:
            weights, bias = (graph.tensors[index] for index in operator.inputs[1:3])
            kernel = array_of(model, weights)  # [out, h, w, in], or [1, h, w, channels]
            group = kernel.shape[3] if name == "DEPTHWISE_CONV_2D" else 1
            kernel = kernel.transpose((3, 0, 1, 2) if group > 1 else (0, 3, 1, 2))
            inputs = [f"t{source}", *quantization(source), constant(f"w{target}", kernel)]
            scale = np.asarray(weights.quantization.scale, np.float32)
            inputs += [constant(f"ws{target}", scale)]
            inputs += [constant(f"wz{target}", np.zeros(len(scale), np.int8))]
            inputs += [*quantization(target), constant(f"b{target}", array_of(model, bias))]
            strides = [options.strideH, options.strideW]
            edge = pads(operator, kernel.shape[2:], strides)
            node("QLinearConv", inputs, f"t{target}", pads=edge, strides=strides, group=group)
        elif name == "ADD":
            inputs = [f"t{source}", *quantization(source), f"t{operator.inputs[1]}"]
            inputs += [*quantization(operator.inputs[1]), *quantization(target)]
            node("QLinearAdd", inputs, f"t{target}", "com.microsoft")
        elif name == "MAX_POOL_2D":
            strides, sides = (
                [options.strideH, options.strideW],
                [options.filterHeight, options.filterWidth],
            )
            edge = pads(operator, sides, strides)
            node(
                "MaxPool",
                [f"t{source}"],
                f"t{target}",
                pads=edge,
                strides=strides,
                kernel_shape=sides,
            )
        elif name == "DEQUANTIZE":
            node("DequantizeLinear", [f"t{source}", *quantization(source)], "map")
            node("ReduceMean", ["map"], "features", axes=[2, 3], keepdims=0)
            break  # what follows is the head
        else:
            raise KeyError(name)
    channels = int(graph.tensors[target].shape[3])
    made = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, size, size, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, channels])],
        list(constants.values()),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


# --- Runtimes, each with one thread ---------------------------------------------------------------


def litert(file: Path) -> Run:
    """Return a function that maps pixels to features with LiteRT."""
    from dog_breeds.learning.tflite import load_file

    run = load_file(file)
    return lambda pixels: run(pixels[0])["features"]


def onnxruntime(file: Path) -> Run:
    """Return a function from pixels to features with ONNX Runtime, for a file of `to_onnx`."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        file.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda pixels: session.run(["features"], {"pixels": pixels})[0][0]


def openvino(file: Path) -> Run:
    """Return a function that maps pixels to features with OpenVINO, which reads .tflite."""
    import openvino as runtime

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = runtime.Core().compile_model(str(file), "CPU", settings)
    (output,) = (output for output in compiled.outputs if "features" in output.get_names())
    return lambda pixels: compiled(pixels)[output][0].copy()


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.tobytes(), np.uint8)
