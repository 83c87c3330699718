"""benchmarks/cpus.py: what it hides of a CPU, and how the network gets to other runtimes."""

import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import COMMITTED, ROOT

sys.path.append(str(ROOT / "benchmarks"))
import cpus as benchmark
import other_runtimes

INTEL = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}


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
            {"avx2", "avx512f", "avx512_vnni"},
            {"vnni": (), "avx512": ("vnni",), "avx2": ("avx512", "vnni")},
        ),
        ({"avx2"}, {"avx2": ()}),
        ({"avx2", "avx_vnni"}, {"avx_vnni": (), "avx2": ("avx_vnni",)}),
    ],
)
def test_cpus_that_a_cpu_can_pass_for(flags, shown, monkeypatch):
    monkeypatch.setattr(benchmark.shutil, "which", lambda name: f"/usr/bin/{name}")
    found, missing = benchmark.shown_cpus(flags)
    assert found == shown and found.keys() | missing.keys() == benchmark.CPUS.keys()
    assert all(reason.startswith("this CPU has no ") for reason in missing.values())
    monkeypatch.setattr(benchmark.shutil, "which", lambda name: None)
    found, missing = benchmark.shown_cpus(flags)
    assert len(found) <= 1 and not any(found.values())  # the real CPU alone


@pytest.fixture(scope="module")
def hide(tmp_path_factory):
    """A function from names to the rows that the C source, compiled with a main, prints."""
    if not shutil.which("cc") or platform.machine() != "x86_64":
        pytest.skip("no C compiler here, or no x86-64")
    program = tmp_path_factory.mktemp("c") / "hide"
    words = ["cc", "-Wall", "-Wextra", "-Werror", "-DTEST", "-o", program, benchmark.SOURCE]
    subprocess.run(words, check=True)

    def rows(*names):
        done = subprocess.run(
            [program], env={"HIDE": ",".join(names)}, capture_output=True, text=True
        )
        assert done.returncode == 0, "the breakpoint was not answered"
        table = [line.split() for line in done.stdout.splitlines()]
        return {
            (int(subleaf), "abcd"[int(reg)]): [int(value, 16) for value in values]
            for subleaf, reg, *values in table
        }

    return rows


def test_a_breakpoint_is_answered_without_hidden_features(hide):
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


def test_litert_takes_other_kernels_on_an_older_cpu_and_gives_the_same_bits(tmp_path):
    """In the patched copy of its package. Each of LiteRT's processes runs the whole network."""
    if not all(map(shutil.which, ("cc", "objdump"))) or platform.machine() != "x86_64":
        pytest.skip("no C compiler or objdump here, or no x86-64")
    shown, _ = benchmark.shown_cpus(set(Path("/proc/cpuinfo").read_text().split()))
    if not any(shown.values()):
        pytest.skip("this CPU has AVX2 alone, and can imitate no other")
    older = tmp_path / "older"
    benchmark.make_older_cpus(["litert"], older)
    installed = Path(find_spec("ai_edge_litert").origin).parent
    changed = [
        file
        for file in (older / "ai_edge_litert").rglob("*.so*")
        if file.read_bytes()
        != (installed / file.relative_to(older / "ai_edge_litert")).read_bytes()
    ]
    assert changed and all(file.read_bytes().count(benchmark.BREAKPOINT) for file in changed)
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, np.random.default_rng(0).uniform(0, 255, (1, 299, 299, 3)).astype("f4"))
    features = []
    for hidden in (), next(filter(None, reversed(shown.values()))):
        worker = benchmark.Worker("litert", COMMITTED, pixels, benchmark.older_cpu(hidden, older))
        worker.process.kill()
        worker.process.wait()
        features.append(worker.features)
    assert np.array_equal(*features)


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
