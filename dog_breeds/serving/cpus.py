"""The CPUs: how many this process may use, their names, and whether inference is fast."""

import contextlib
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

CPU_INFO = Path("/proc/cpuinfo")
# Linux gives no name for a CPU of Arm, only this number ("CPU part", of implementer 0x41)
ARM_PARTS = {
    "0xd0c": "Neoverse N1",  # Graviton2
    "0xd40": "Neoverse V1",  # Graviton3
    "0xd4f": "Neoverse V2",  # Graviton4
}
# Dot products of int8 in one instruction, by the names that Linux gives them. XNNPACK uses them.
INT8 = {"avx512_vnni": "vnni", "avx_vnni": "vnni", "asimddp": "dotprod"}

_processes = 1  # that share the CPUs


def cpu_count() -> int:
    """Return how many CPUs this process may use: all, or its share after `share_cpus`."""
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

    "vnni" is of x86-64, "dotprod" of arm64; "unknown" where the system does not say it.
    """
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "dotprod"  # all CPUs of Apple's Macs have them
    text = _cpu_info()
    if not text:
        return "unknown"
    words = set(text.split())
    return next((kind for flag, kind in INT8.items() if flag in words), "none")


def is_accelerated(interpreter: Any) -> bool:
    """Return whether XNNPACK runs the network of an interpreter whose tensors are allocated.

    Where XNNPACK does not know the CPU, the runtime leaves it out without a word. Its own kernels
    take six times as long and round differently, so that the features are not the same.
    """
    return any(operator["op_name"] == "DELEGATE" for operator in interpreter._get_ops_details())


def start_log(interpreter: Any) -> dict:
    """Return what the handler logs once at its start."""
    return {
        "event": "start",
        "accelerated": is_accelerated(interpreter),
        "cpu": cpu_name(),
        "int8": int8_instructions(),
    }


def why_slow(interpreter: Any) -> str:
    """Return a sentence for the user if inference is going to be slow, and why; else ""."""
    if not is_accelerated(interpreter):
        return (
            f"Inference is slow on this CPU ({cpu_name()}), and its results differ: the runtime "
            "does not use XNNPACK here. DEPLOY.md says why, and what to do, under Graviton."
        )
    is_int8 = any(tensor["dtype"] == np.int8 for tensor in interpreter.get_tensor_details())
    if is_int8 and int8_instructions() == "none":
        return (
            f"Inference is slow on this CPU ({cpu_name()}): it has no dot products of int8 (VNNI "
            "or dotprod), with which an inference is up to eight times as fast. Results are the "
            "same."
        )
    return ""


def _cpu_info() -> str:
    """Return what Linux says of the CPUs; "" on other systems."""
    with contextlib.suppress(OSError):
        return CPU_INFO.read_text(errors="replace")
    return ""
