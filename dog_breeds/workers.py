"""Functions that run tasks in parallel processes or threads."""

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


def map_in_processes(function: Callable, tasks: Iterable[tuple], processes: int = 0) -> Iterator:
    """Yield function(*task) for each task, in the order of `tasks`, from worker processes.

    `processes` is the number of workers; 0 means one for each CPU. At most four tasks or results
    for each worker are in memory at once. Workers are spawned, not forked, because a fork is not
    safe beside TensorFlow's threads. Spawned workers also behave the same on every system. Raises
    BrokenExecutor if a worker dies.
    """
    tasks = iter(tasks)
    # With few tasks, start no more workers than there are tasks
    first = list(itertools.islice(tasks, processes or cpu_count()))
    if not first:
        return
    processes = len(first)
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(processes, context, _start_worker, (processes,)) as pool:
        pending = deque()
        for task in itertools.chain(first, tasks):
            if len(pending) == 4 * processes:  # enough waiting tasks to keep all workers busy
                yield pending.popleft().result()
            # `submit` starts the workers, one at a time
            with _starting_workers(function):
                pending.append(pool.submit(function, *task))
        while pending:
            yield pending.popleft().result()


def map_in_threads(function: Callable, tasks: Sequence) -> Iterator:
    """Yield function(task) for each task, in the order of `tasks`, from a thread for each CPU.

    If a task raises an exception, the waiting tasks are cancelled. Threads help only if the
    function releases the GIL, as NumPy and the serving runtime do.
    """
    pool = futures.ThreadPoolExecutor(cpu_count())
    try:
        yield from pool.map(function, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def call_in_new_process(module: str, function: str, *arguments: Any) -> Any:
    """Call a function in a new process and return its result.

    The function is given by the names of its module and itself, so this process does not import the
    module.
    """
    (result,) = map_in_processes(_call, [(module, function, *arguments)])
    return result


def _call(module: str, function: str, *arguments: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments)


@contextlib.contextmanager
def _starting_workers(function: Callable) -> Iterator[None]:
    """Prepare the workers that start inside this context.

    A spawned worker imports the main module of its parent. Inside this context, that is the
    function's module and not the running script, which may load TensorFlow. The workers ignore
    Ctrl-C, because their parent handles it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules[function.__module__]
    # glibc then requests memory from the system in steps of 16 MB. Otherwise workers return memory
    # and request it again for each photo, which costs 9 % of the time.
    os.environ["MALLOC_TOP_PAD_"] = str(2**24)
    try:
        with _ctrl_c_later():
            yield
    finally:
        del os.environ["MALLOC_TOP_PAD_"]
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Block Ctrl-C for processes that start inside this context, and delay Ctrl-C for this process.

    If Ctrl-C comes while workers start, this process handles it at the end of the context.
    """
    received = []
    # Start the resource tracker before the mask is set. Otherwise the first worker's start would
    # start the tracker, which unblocks SIGINT at its end.
    resource_tracker.ensure_running()
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new processes inherit it
    # The mask applies only to this thread. If another thread receives the signal, Python still
    # runs the handler in the main thread. The handler below therefore only records the signal.
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = (
        signal.signal(signal.SIGINT, lambda *_: received.append(True)) if in_main_thread else None
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
            if received:
                signal.raise_signal(signal.SIGINT)


def _start_worker(processes: int) -> None:
    share_cpus(processes)  # so that `cpu_count` returns this worker's share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C for all
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow warns about unusual files


def _end_with_parent() -> None:
    """Wait for the end of the parent process, and then end this process.

    A killed parent cannot stop its workers. Without this thread, they would wait for tasks forever.
    """
    multiprocessing.parent_process().join()
    os._exit(1)  # sys.exit would end only this thread
