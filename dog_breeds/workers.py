"""Processes and threads that share work."""

import concurrent.futures as futures
import contextlib
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

from dog_breeds.serving.cpus import cpu_count, share_cpus


def in_processes(function: Callable, tasks: Iterable[tuple], processes: int = 0) -> Iterator:
    """Yield function(*task) for each task, in their order, from so many processes (0: one per CPU).

    Holds few tasks and results at once. Processes are spawned, not forked: safe beside TensorFlow's
    threads, and the same on every system. Raises BrokenExecutor when one of them dies.
    """
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, processes or cpu_count()))
    if not first:
        return
    processes = len(first)
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(processes, context, _start_worker, (processes,)) as pool:
        pending = deque()
        for task in itertools.chain(first, tasks):
            if len(pending) == 4 * processes:
                yield pending.popleft().result()
            with _starting_workers(function):
                pending.append(pool.submit(function, *task))
        while pending:
            yield pending.popleft().result()


def in_threads(function: Callable, tasks: Sequence) -> Iterator:
    """Yield function(task) for each task, in their order, from a thread for each CPU; what one
    raises ends the others.

    For work that lets other threads go on: NumPy's, and that of the serving runtime.
    """
    pool = futures.ThreadPoolExecutor(cpu_count())
    try:
        yield from pool.map(function, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def call_elsewhere(module: str, function: str, *arguments: Any) -> Any:
    """Return what a function, named so that its module is not imported here, gives in a process of
    its own.
    """
    (result,) = in_processes(_call, [(module, function, *arguments)])
    return result


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments)


@contextlib.contextmanager
def _starting_workers(function: Callable) -> Iterator[None]:
    """Let processes started in here import the function's module, not the script that runs, and
    never get Ctrl-C.

    A script may load TensorFlow, which each of them would do too. Ctrl-C is their parent's to
    handle.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules[function.__module__]
    # glibc: take 16 MB from the system at once. Else workers return memory and take it again with
    # each photo, for 9 %.
    os.environ["MALLOC_TOP_PAD_"] = str(2**24)
    try:
        with _ctrl_c_later():
            yield
    finally:
        del os.environ["MALLOC_TOP_PAD_"]
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Keep Ctrl-C from processes that start in here, and from this one until they have been told
    what to do.
    """
    came = []
    # The first worker would start it, and that ends with the mask taken off
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new processes inherit it
    # The mask is this thread's alone: a signal that another thread receives still interrupts the
    # main one.
    wait = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(True)) if wait else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if wait:
            signal.signal(signal.SIGINT, handler)
            if came:
                signal.raise_signal(signal.SIGINT)


def _start_worker(processes: int) -> None:
    share_cpus(processes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow's remarks on odd files


def _end_with_parent() -> None:
    """End this process when its parent is gone: killed, that tells nobody, and workers would wait
    for work for ever.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
