"""The number of CPUs that this process may use."""

import os

_processes = 1  # that share the CPUs


def cpu_count() -> int:
    """Return the number of CPUs that this process may use: all, or its share of them after `share_cpus`."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cpus // _processes)


def share_cpus(processes: int) -> None:
    """Tell `cpu_count` how many processes, this one included, share the CPUs."""
    global _processes
    _processes = processes
