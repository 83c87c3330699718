"""Shared helpers of all scripts: command line, error messages, progress bars, silenced libraries,
and files that are written completely or not at all.
"""

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from threading import RLock

from tqdm import tqdm

MAX_WRITING_SECONDS = 10  # after this time, no process is still writing a small file
LINE_SECONDS = 30  # seconds between two lines of progress if output goes to a file


def script_parser(docstring: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose --help shows a script's docstring unchanged, and an example."""
    style = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        description=docstring, epilog=f"example: {example}", formatter_class=style
    )


@contextlib.contextmanager
def one_line_errors(stopped: str = "stopped") -> Iterator[None]:
    """End the script with one line instead of a traceback for errors that its user can fix.

    The line begins with the script's name. The errors are OSError, RuntimeError, ValueError and
    missing packages. Ctrl-C ends the script in the same way, with the text `stopped`.
    """
    script = Path(sys.argv[0]).name
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as head -1, has ended
        # Python flushes stdout at exit, which would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, RuntimeError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"{script}: {error_text(error)}")
    except KeyboardInterrupt:
        sys.exit(f"{script}: {stopped}")


@contextlib.contextmanager
def one_line_import_errors(module: str) -> Iterator[None]:
    """End the script with one line if a package that it imports in this context is missing.

    `module` is the `__name__` of the importing file. If another file imports that file, such as a
    test or the notebook, the error is raised as usual.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if module != "__main__":
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error_text(error)}")


def error_text(error: Exception) -> str:
    """Return the text of an error.

    For an OSError with a file, the text is the file's name and the reason. The error number is
    left out. For a missing package, the text says how to install it.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return (
            f"the package {package} is not installed in this Python environment; "
            "run make install, then source .venv/bin/activate"
        )
    # Errors of this project's own code are OSErrors without a file: their text is complete
    if not (isinstance(error, OSError) and error.filename is not None and error.strerror):
        return str(error)
    # A failed rename has two file names
    names = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name)
    return f"{names}: {error.strerror[0].lower()}{error.strerror[1:]}"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` in one step at the end.

    `path` keeps its old content until then. After an error the temporary file is removed. Its name
    has the same suffix as `path`, because some libraries choose the format by the suffix. The name
    begins with ".part-", so that `remove_temporary_files` finds files of killed processes.
    """
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder; raise OSError if no file can be written into it."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file, not a folder; choose another folder to write to"
        )
    folder.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=folder).close()  # permission bits do not show a read-only file system


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder.

    Another run may be writing a file, which takes only a moment. Files younger than
    MAX_WRITING_SECONDS are therefore kept.
    """
    for temporary in folder.glob(".part-*"):
        with contextlib.suppress(FileNotFoundError):  # another run has just renamed it
            if time.time() - temporary.stat().st_mtime > MAX_WRITING_SECONDS:
                temporary.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step: readers see the old text or the complete new text."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class _LineStream:
    """A stream for progress bars without a terminal; it prints each update as a line."""

    def write(self, text: str) -> None:
        """Print the text as a line, unless it is blank."""
        if text := text.strip():
            print(text, flush=True)

    def flush(self) -> None:
        """Do nothing, because `write` already flushes."""


class _Bar(tqdm):
    """A progress bar without the thread and the lock of multiprocessing that tqdm adds."""

    monitor_interval = 0


_Bar.set_lock(RLock())  # a lock for threads only, because workers show no bars


@contextlib.contextmanager
def progress(
    label: str, total: int | None, start: int = 0, unit: str = "bytes"
) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows the amount done, the rate and the time left.

    Call the function with the total amount done so far. On a terminal it updates a bar. If output
    goes to a file, it prints a line every half minute. `start` is the amount done by an earlier
    run; the rate does not include it.
    """
    amounts = (
        {"unit": "B", "unit_scale": True, "unit_divisor": 1000}
        if unit == "bytes"
        else {"unit": f" {unit}"}
    )
    options = {"miniters": 1, "desc": label, "total": total, "initial": start, **amounts}
    if sys.stdout.isatty():
        # tqdm shows nothing if it cannot find the size of the terminal, so pass the size
        columns, lines = shutil.get_terminal_size()
        bar = _Bar(**options, file=sys.stdout, ncols=columns, nrows=lines)
    else:
        # tqdm fills in these fields at each update
        amount = "{desc}: {n_fmt} of {total_fmt}" if total else "{desc}: {n_fmt}"
        line = amount + ", {rate_fmt}" + (", {remaining} left" if total else "")
        seconds = {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS}
        bar = _Bar(**options, **seconds, file=_LineStream(), leave=False, bar_format=line)
    with bar:
        yield lambda done: bar.update(done - bar.n)  # tqdm takes the increase, not the total


def with_progress(items: Iterable, label: str, total: int, unit: str) -> Iterator:
    """Yield the items, and show how many of them the caller has processed."""
    with progress(label, total, unit=unit) as show:
        for done, item in enumerate(items, 1):
            yield item
            show(done)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout and stderr, including the output of C++ libraries."""
    sys.stdout.flush()
    sys.stderr.flush()
    # C++ code writes to the file descriptors 1 and 2, so replacing sys.stdout is not enough
    saved, null = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(saved, 1):
            os.dup2(old, number)
            os.close(old)
        os.close(null)
