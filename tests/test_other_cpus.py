"""benchmarks/cpus.py: what it hides of a CPU, and how the network gets to other runtimes.

This machine need not be able to make CPUID fault. What answers a fault is tested without one.
"""

import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import COMMITTED, ROOT

sys.path.append(str(ROOT / "benchmarks"))
import cpus as benchmark
import other_runtimes

INTEL = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "cpuid_fault"}


@pytest.mark.parametrize(
    "flags, shown",
    [
        (
            INTEL,
            {
                "vnni": ("amx",),
                "avx512": ("amx", "vnni", "avx_vnni"),
                "avx_vnni": ("amx", "avx512", "vnni"),
                "avx2": ("amx", "avx512", "vnni", "avx_vnni"),
            },
        ),
        (
            {"avx2", "avx512f", "avx512_vnni", "cpuid_fault"},
            {"vnni": (), "avx512": ("vnni",), "avx2": ("avx512", "vnni")},
        ),
        ({"avx2", "avx512f", "avx512_vnni"}, {"vnni": ()}),
        ({"avx2"}, {"avx2": ()}),
        ({"avx2", "avx_vnni", "cpuid_fault"}, {"avx_vnni": (), "avx2": ("avx_vnni",)}),
    ],
)
def test_cpus_that_a_cpu_can_pass_for(flags, shown, monkeypatch):
    monkeypatch.setattr(benchmark.shutil, "which", lambda name: f"/usr/bin/{name}")
    found, missing = benchmark.shown_cpus(flags)
    assert found == shown and found.keys() | missing.keys() == benchmark.CPUS.keys()
    assert all(
        "cannot make CPUID fault" in why or why.startswith("this CPU has no ")
        for why in missing.values()
    )


@pytest.fixture(scope="module")
def hide(tmp_path_factory):
    """A function from names to the rows that the C source, compiled with a main, prints."""
    if not shutil.which("cc") or platform.machine() != "x86_64":
        pytest.skip("no C compiler here, or no x86-64")
    program = tmp_path_factory.mktemp("c") / "hide"
    words = ["cc", "-Wall", "-Wextra", "-Werror", "-DTEST", "-o", program, benchmark.SOURCE]
    subprocess.run(words, check=True)

    def rows(*names):
        done = subprocess.run([program, ",".join(names)], capture_output=True, text=True)
        assert done.returncode == 0, "the fault was not answered, or the instruction not skipped"
        table = [line.split() for line in done.stdout.splitlines()]
        return {
            (int(subleaf), "abcd"[int(reg)]): [int(value, 16) for value in values]
            for subleaf, reg, *values in table
        }

    return rows


def test_a_fault_is_answered_without_what_is_hidden(hide):
    for real, shown, hidden in hide("avx512", "vnni", "avx_vnni", "amx").values():
        assert shown == real & ~hidden
    for real, shown, hidden in hide().values():
        assert shown == real and not hidden


def test_bits_are_those_of_the_manual(hide):
    """avx512f and vl, vnni, avx-vnni, amx-int8; avx2, which is bit 5 of EBX, stays."""
    bits = {key: hidden for key, (_, _, hidden) in hide("avx512").items()}
    assert bits[0, "b"] >> 16 & 1 and bits[0, "b"] >> 31 & 1 and not bits[0, "b"] >> 5 & 1
    assert hide("vnni")[0, "c"][2] == 1 << 11
    assert hide("avx_vnni")[1, "a"][2] >> 4 & 1
    assert hide("amx")[0, "d"][2] >> 25 & 1 and not hide("amx")[0, "b"][2]


def test_the_library_loads_or_says_that_the_cpu_cannot(tmp_path):
    if not shutil.which("cc") or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler here, or no Linux")
    library = tmp_path / "hide.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, benchmark.SOURCE], check=True)
    command = [sys.executable, "-c", "print('runs')"]
    env = {"LD_PRELOAD": str(library), "HIDE": "avx512"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "runs\n") or (
        done.returncode == 3 and "cannot make CPUID fault" in done.stderr
    )
    env.pop("HIDE")
    assert subprocess.run(command, env=env, capture_output=True).returncode == 0


def test_weights_of_7_bits_are_half_with_twice_the_scale(tmp_path):
    (tmp_path / "7.tflite").write_bytes(other_runtimes.with_7_bit_weights(COMMITTED))
    models = [other_runtimes.read_model(file) for file in (COMMITTED, tmp_path / "7.tflite")]
    rows = []
    for model in models:
        graph = model.subgraphs[0]
        for operator in graph.operators:
            if other_runtimes.operator_name(model, operator) in other_runtimes.CONVOLUTIONS:
                tensor = graph.tensors[operator.inputs[1]]
                rows.append((other_runtimes.array_of(model, tensor), tensor.quantization.scale))
    old, new = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert len(new) == 74
    for (values, scale), (halved, doubled) in zip(old, new, strict=True):
        assert np.abs(halved).max() <= 64 and np.abs(halved - values / 2).max() <= 0.5
        assert np.array_equal(doubled, np.asarray(scale) * 2)
    interpreter = Interpreter(str(tmp_path / "7.tflite"))
    interpreter.allocate_tensors()


def test_onnx_runtime_gives_what_the_runtime_gives(tmp_path):
    """With weights of 7 bits, whose sums overflow on no CPU."""
    pytest.importorskip("onnx", reason="no onnx here; see benchmarks/cpus.py --help")
    pytest.importorskip("onnxruntime", reason="no onnxruntime here; see benchmarks/cpus.py --help")
    files = benchmark.files_for_runtimes(COMMITTED, tmp_path)
    pixels = np.stack([np.asarray(photo.resize((299, 299))) for photo in benchmark.drawn_photos(1)])
    pixels = pixels.astype(np.float32)
    ours = other_runtimes.litert(tmp_path / "7bit.tflite")(pixels)
    theirs = other_runtimes.onnxruntime(files["onnxruntime_7bit"])(pixels)
    assert benchmark.distance(theirs[None], ours[None]) < 0.1  # the two round ties differently
