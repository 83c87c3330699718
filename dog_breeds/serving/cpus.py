"""Find out about the CPU: how many cores this process may use, its name, and if it is fast."""

import contextlib
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

CPU_INFO = Path("/proc/cpuinfo")
# For Arm CPUs, Linux gives a number instead of a name ("CPU part", with the implementer 0x41)
ARM_PARTS = {
    "0xd0c": "Neoverse N1",  # Graviton2
    "0xd40": "Neoverse V1",  # Graviton3
    "0xd4f": "Neoverse V2",  # Graviton4
}
# Linux' names of instructions that compute dot products of int8, which XNNPACK uses
INT8 = {"avx512_vnni": "vnni", "avx_vnni": "vnni", "asimddp": "dotprod"}

_processes = 1  # how many processes share the CPUs


def cpu_count() -> int:
    """Return how many CPUs this process may use: all, or its share after a call of `share_cpus`."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cpus // _processes)


def share_cpus(processes: int) -> None:
    """Tell `cpu_count` how many processes, this one included, share the CPUs."""
    global _processes
    _processes = processes


def cpu_name() -> str:
    """Return the name of the CPU, or of its architecture where the system gives no name."""
    text = _cpu_info()
    name = re.search(r"^model name\s*: (.*\S)", text, re.M)
    part = re.search(r"^CPU part\s*: (\w+)", text, re.M)
    if name:
        return name[1]
    if part and re.search(r"^CPU implementer\s*: 0x41$", text, re.M):
        return ARM_PARTS.get(part[1], f"Arm {part[1]}")
    return platform.machine()


def int8_instructions() -> str:
    """Return which dot products of int8 the CPU has: "vnni", "dotprod", "none" or "unknown".

    x86-64 has "vnni" and arm64 has "dotprod". "unknown" means that the system does not tell.
    """
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "dotprod"  # all CPUs of Apple's Macs have them
    text = _cpu_info()
    if not text:
        return "unknown"
    flags = set(text.split())
    return next((name for flag, name in INT8.items() if flag in flags), "none")


def is_accelerated(interpreter: Any) -> bool:
    """Return whether XNNPACK runs the network of an interpreter whose tensors are allocated.

    If XNNPACK does not recognise the CPU, LiteRT uses its own kernels and reports nothing. These
    take six times as long and round differently, so the features are not the same.
    """
    return any(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details())


def start_log(interpreter: Any) -> dict:
    """Return the line that the handler logs once at its start."""
    return {
        "event": "start",
        "accelerated": is_accelerated(interpreter),
        "cpu": cpu_name(),
        "int8": int8_instructions(),
    }


def why_slow(interpreter: Any) -> str:
    """Return a sentence that says why inference is slow here, or "" if it is fast."""
    if not is_accelerated(interpreter):
        return (
            f"Inference is slow on this CPU ({cpu_name()}), and its results differ, because the "
            "runtime does not use XNNPACK. The section Graviton of DEPLOY.md explains what to do."
        )
    is_int8 = any(tensor["dtype"] == np.int8 for tensor in interpreter.get_tensor_details())
    if is_int8 and int8_instructions() == "none":
        return (
            f"Inference is slow on this CPU ({cpu_name()}), because it lacks dot products of int8 "
            "(VNNI or dotprod). CPUs with them are up to eight times as fast. The results are the "
            "same."
        )
    return ""


def _cpu_info() -> str:
    """Return the text of Linux' /proc/cpuinfo, or "" on other systems."""
    with contextlib.suppress(OSError):
        return CPU_INFO.read_text(errors="replace")
    return ""
