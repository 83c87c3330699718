#!/usr/bin/env bash
# One would expect: LiteRT runs an int8 convolution by XNNPACK on every arm64 Linux, or raises an error.
# What happens: without /sys/devices/system/cpu/possible and present, as in AWS Lambda's sandbox on arm64, its cpuinfo
# library gives up. LiteRT then leaves XNNPACK out, prints a line on stderr and goes on with its own kernels. They take
# several times as long and round differently. Two files of one line each mend it.
# Why it matters: a function deployed to Graviton for its speed is slow, and its features differ from those of training.
# Needs root, Debian and qemu-user-static. Emulates a Neoverse N1 (Graviton2), with /sys empty, and then with the two files.
set -euo pipefail
command -v qemu-aarch64-static >/dev/null || { echo "apt-get install qemu-user-static"; exit 1; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
root=$folder/root
mkdir -p "$folder"/{lists/partial,cache/archives/partial} "$root"/{proc,dev,sys,packages}; touch "$folder/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=false -o APT::Sandbox::User=root
  -o Dir::State::Lists="$folder/lists" -o Dir::State::status="$folder/status" -o Dir::Cache="$folder/cache")
"${apt[@]}" update
"${apt[@]}" --yes --download-only install python3 libstdc++6 >/dev/null
for package in "$folder"/cache/archives/*.deb; do dpkg -x "$package" "$root"; done
python=$(basename "$(ls "$root"/usr/bin/python3.??)")
python3 -m pip install -qq --disable-pip-version-check --only-binary=:all: --platform manylinux_2_28_aarch64 \
  --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 --implementation cp --python-version "${python#python}" \
  --target "$root/packages" ai-edge-litert==2.3.0 numpy==2.2.6
cp "$(command -v qemu-aarch64-static)" "$root/qemu"
printf '%s\n' "processor : 0" "Features : fp asimd aes crc32 atomics fphp asimdhp asimdrdm asimddp" "CPU implementer : 0x41" \
  "CPU architecture: 8" "CPU variant : 0x3" "CPU part : 0xd0c" "CPU revision : 1" | sed 's/ :/\t:/' >"$folder/cpuinfo"
cat >"$root/layer.py" <<'PYTHON'
import sys

sys.path.insert(0, "/packages")
from importlib.metadata import version

import numpy as np
from ai_edge_litert import interpreter, schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

INT8, INT32 = schema.TensorType.INT8, schema.TensorType.INT32


def tensor(shape, kind, scale, buffer=0):
    quantization = schema.QuantizationParametersT(scale=np.float32([scale]), zeroPoint=np.int64([0]))
    return schema.TensorT(shape=shape, type=kind, buffer=buffer, name=f"t{buffer}", quantization=quantization)


# An int8 convolution, 3x3, of 16 channels
weights = np.ones((16, 3, 3, 16), np.int8)
data = [None, weights.tobytes(), np.zeros(16, np.int32).tobytes()]
tensors = [tensor([1, 8, 8, 16], INT8, 0.1), tensor([16, 3, 3, 16], INT8, 0.1, 1), tensor([16], INT32, 0.01, 2)]
tensors.append(tensor([1, 6, 6, 16], INT8, 1.0))
conv = schema.BuiltinOperator.CONV_2D
options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
operator = schema.OperatorT(0, [0, 1, 2], [3], schema.BuiltinOptions.Conv2DOptions, options)
graph = schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[3], operators=[operator])
buffers = [schema.BufferT(data=np.frombuffer(one, np.uint8) if one else None) for one in data]
codes = [schema.OperatorCodeT(builtinCode=conv, deprecatedBuiltinCode=conv, version=3)]
model = schema.ModelT(version=3, subgraphs=[graph], buffers=buffers, operatorCodes=codes)
content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
network = interpreter.Interpreter(model_content=content)
network.allocate_tensors()
print("ai-edge-litert", version("ai-edge-litert"), *(one["op_name"] for one in network._get_ops_details()))
PYTHON
run() {
  unshare --mount bash -c 'mount -t proc proc "$0/proc" && mount --bind "$1" "$0/proc/cpuinfo" || exit 1
    for device in null zero random urandom; do touch "$0/dev/$device"; mount --bind "/dev/$device" "$0/dev/$device"; done
    PATH=/usr/sbin:$PATH exec chroot "$0" /qemu -cpu neoverse-n1 /usr/bin/python3 /layer.py' "$root" "$folder/cpuinfo"
}
echo "without the two files:"; without=$(run); echo "$without"
mkdir -p "$root/sys/devices/system/cpu"
for list in possible present; do echo 0-1 >"$root/sys/devices/system/cpu/$list"; done
echo "with the two files:"; with=$(run); echo "$with"
[ "$without" = "ai-edge-litert 2.3.0 CONV_2D" ] && [ "$with" = "ai-edge-litert 2.3.0 CONV_2D DELEGATE" ] \
  || { echo "this has changed"; exit 1; }
