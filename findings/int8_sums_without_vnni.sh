#!/usr/bin/env bash
# One would expect: an int8 convolution gives the same integers on every CPU, or the runtime warns.
# What happens: on x86-64 without VNNI (AVX2 alone), ONNX Runtime and OpenVINO add two products of a uint8 and an int8 in
# 16 bits. 255 * 127 * 2 does not fit, and the sum is cut off at 32,767. In the layer below the answer is 32.4 instead
# of 64, without a word. Signed activations are no way out: with QLinearConv on int8, ONNX Runtime is right (and several
# times slower on a whole network), but from the same layer written as QDQ it makes the uint8 form, and is wrong again.
# Why it matters: the same file answers differently on a laptop and in the cloud, and on one cloud's older machines. LiteRT
# (XNNPACK) adds in 32 bits everywhere. Weights of 7 bits end the overflow in ONNX Runtime.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import pathlib
import sys

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 64
INPUTS = np.ones((1, CHANNELS, 4, 4), np.float32)  # in uint8: 255 everywhere
node = helper.make_node


def model(dtype, zero, qdq):
    """A 1x1 convolution with weights of 1 (127 in int8): the sum of its 64 inputs."""
    constants = {
        "sx": np.float32(1 / 255), "zx": dtype(zero), "sy": np.float32(CHANNELS / 255), "zy": dtype(zero),
        "w": np.full((8, CHANNELS, 1, 1), 127, np.int8), "sw": np.full(8, 1 / 127, np.float32), "zw": np.zeros(8, np.int8),
    }
    nodes = [node("QuantizeLinear", ["x", "sx", "zx"], ["xq"])]
    if qdq:
        nodes += [
            node("DequantizeLinear", ["xq", "sx", "zx"], ["xf"]),
            node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
            node("Conv", ["xf", "wf"], ["yf"]),
            node("QuantizeLinear", ["yf", "sy", "zy"], ["yq"]),
        ]
    else:
        nodes += [node("QLinearConv", ["xq", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["yq"])]
    nodes += [node("DequantizeLinear", ["yq", "sy", "zy"], ["y"])]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 4, 4])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def by_onnxruntime(content):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": INPUTS})[0].max())


def by_openvino(content):
    core = openvino.Core()
    return float(core.compile_model(core.read_model(content), "CPU")(INPUTS)[0].max())


print("ONNX Runtime", onnxruntime.__version__, "OpenVINO", openvino.__version__)
flags = set(pathlib.Path("/proc/cpuinfo").read_text().split())
if flags & {"avx512_vnni", "avx_vnni", "asimddp"} or "avx2" not in flags:
    sys.exit("this CPU has int8 dot products, or is no x86-64 with AVX2: the overflow cannot be seen here")
seen = {
    "ONNX Runtime, QLinearConv, uint8": by_onnxruntime(model(np.uint8, 0, False)),
    "ONNX Runtime, QLinearConv, int8": by_onnxruntime(model(np.int8, -128, False)),
    "ONNX Runtime, QDQ, int8": by_onnxruntime(model(np.int8, -128, True)),
    "OpenVINO, QDQ, uint8": by_openvino(model(np.uint8, 0, True)),
    "OpenVINO, QDQ, int8": by_openvino(model(np.int8, -128, True)),
}
for name, value in seen.items():
    print(f"{name}: {value:.1f}, exact would be {CHANNELS}")
assert [round(value) for value in seen.values()] == [32, 64, 32, 32, 32], "this has changed"
PYTHON
