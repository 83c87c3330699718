"""Which CPU this is, whether XNNPACK runs the network on it, and what users are told of that."""

import json
import platform
import re

import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from conftest import COMMITTED, run
from odd_images import drawn_image

from dog_breeds.learning import tflite
from dog_breeds.serving import cpus

# As Linux shows them, shortened
ICE_LAKE = """
processor	: 0
model name	: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
flags		: fpu sse2 avx2 avx512f avx512_vnni hypervisor
"""
ALDER_LAKE = """
model name	: 12th Gen Intel(R) Core(TM) i5-12400
flags		: fpu sse2 avx2 avx_vnni
"""
ZEN_3 = """
model name	: AMD EPYC 7R13 Processor
flags		: fpu sse2 avx2 fma
"""
GRAVITON2 = """
processor	: 0
BogoMIPS	: 243.75
Features	: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1
"""  # noqa: E501


@pytest.mark.parametrize(
    "text, name, int8",
    [
        (ICE_LAKE, "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "vnni"),
        (ALDER_LAKE, "12th Gen Intel(R) Core(TM) i5-12400", "vnni"),
        (ZEN_3, "AMD EPYC 7R13 Processor", "none"),
        (GRAVITON2, "Neoverse N1", "dotprod"),
        (GRAVITON2.replace("0xd0c", "0xd40"), "Neoverse V1", "dotprod"),
        (GRAVITON2.replace("0xd0c", "0xfff"), "Arm 0xfff", "dotprod"),
        (GRAVITON2.replace(" asimddp", ""), "Neoverse N1", "none"),
        (GRAVITON2.replace("0x41", "0x61"), platform.machine(), "dotprod"),
    ],
)
def test_name_and_instructions_come_from_what_linux_says(text, name, int8, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpus, "CPU_INFO", tmp_path / "cpuinfo")
    assert (cpus.cpu_name(), cpus.int8_instructions()) == (name, int8)


def test_other_systems_say_less(tmp_path, monkeypatch):
    monkeypatch.setattr(cpus, "CPU_INFO", tmp_path / "missing")
    assert (cpus.cpu_name(), cpus.int8_instructions()) == (platform.machine(), "unknown")
    monkeypatch.setattr(cpus.sys, "platform", "darwin")
    monkeypatch.setattr(cpus.platform, "machine", lambda: "arm64")
    assert (cpus.cpu_name(), cpus.int8_instructions()) == ("arm64", "dotprod")


def interpreter(file, accelerated):
    """An interpreter with XNNPACK, or without it, as on a CPU that XNNPACK does not know."""
    kinds = {True: OpResolverType.AUTO, False: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    new = Interpreter(str(file), experimental_op_resolver_type=kinds[accelerated])
    new.allocate_tensors()
    return new


@pytest.mark.parametrize(
    "accelerated, text, expected",
    [
        (True, ICE_LAKE, ""),
        (True, GRAVITON2, ""),
        (True, ZEN_3, r".*AMD EPYC 7R13.* lacks dot products of int8 .* results are the same\."),
        (False, GRAVITON2, r".*Neoverse N1.* does not use XNNPACK\. .* DEPLOY\.md .*"),
        (False, ZEN_3, r".*AMD EPYC 7R13.* does not use XNNPACK\. .* DEPLOY\.md .*"),
    ],
)
def test_the_sentence_says_why_inference_is_slow(
    accelerated, text, expected, tmp_path, monkeypatch
):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpus, "CPU_INFO", tmp_path / "cpuinfo")
    network = interpreter(COMMITTED, accelerated)
    assert cpus.start_log(network)["accelerated"] is accelerated
    assert re.fullmatch(expected, cpus.why_slow(network))


def test_float32_is_slow_nowhere(colour_model, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(ZEN_3)
    monkeypatch.setattr(cpus, "CPU_INFO", tmp_path / "cpuinfo")
    assert cpus.why_slow(interpreter(colour_model, True)) == ""


def test_training_says_it_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "cpuinfo").write_text(ZEN_3)
    monkeypatch.setattr(cpus, "CPU_INFO", tmp_path / "cpuinfo")
    tflite.print_if_slow.cache_clear()
    for _ in range(2):
        tflite.print_if_slow(COMMITTED)
    assert capsys.readouterr().out.count("lacks dot products of int8") == 1


def test_clients_say_it_beside_the_answer(tmp_path):
    """test.py with a model file, on the CPU of this machine, about one photo and about a folder."""
    (tmp_path / "photos").mkdir()
    drawn_image().save(tmp_path / "photos" / "a.png")
    remarks = [cpus.why_slow(interpreter(COMMITTED, True))]
    if remarks == [""]:
        remarks = []
    words = ["--file", tmp_path / "photos" / "a.png", "--model", COMMITTED]
    one = run("test.py", *words)
    words = ["--folder", tmp_path / "photos", "--csv", tmp_path / "out.csv", "--model", COMMITTED]
    folder = run("test.py", *words)
    for done in (one, folder):
        assert done.returncode == 0 and done.stderr.splitlines() == remarks
    assert "new photos" in folder.stdout


def test_the_function_logs_it_once_at_its_start(stack):
    stack.invoke({})
    stack.invoke({})
    lines = [json.loads(line) for line in stack.printed().splitlines() if line.startswith("{")]
    first, *others = lines
    assert first == {
        "event": "start",
        "accelerated": True,
        "cpu": cpus.cpu_name(),
        "int8": cpus.int8_instructions(),
    }
    assert len(others) == 2 and not any("accelerated" in line for line in others)
