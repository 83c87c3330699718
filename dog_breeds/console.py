"""What every script needs: a command line, a progress bar, silence from chatty libraries, files
written whole.
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

WRITING = 10  # seconds after which nobody writes to a small file any longer
LINE_SECONDS = 30  # between two lines of progress where output goes to a file


def script_parser(docstring: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose --help shows a script's docstring as it is written, and an example."""
    style = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        description=docstring, epilog=f"example: {example}", formatter_class=style
    )


@contextlib.contextmanager
def one_line_errors(stopped: str = "stopped") -> Iterator[None]:
    """End the script with its name and one line where something is wrong that its user can mend,
    and after Ctrl-C.
    """
    script = Path(sys.argv[0]).name
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, such as head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        sys.exit(1)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"{script}: {error_text(error)}")
    except KeyboardInterrupt:
        sys.exit(f"{script}: {stopped}")


def error_text(error: Exception) -> str:
    """Return an error's text; of errors of the system the file and what is wrong with it, without
    number.
    """
    if not (isinstance(error, OSError) and error.filename is not None and error.strerror):
        return str(error)
    names = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name)
    return f"{names}: {error.strerror[0].lower()}{error.strerror[1:]}"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name to write to; what stands there at the end becomes `path` in one step, after an
    error it is removed.

    The temporary name has the same ending, by which some libraries tell the format. It begins with
    ".part-": a killed process leaves it behind. `path` keeps its old content until the end.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder; raise OSError unless a file can be written into it."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; name another place to write to")
    folder.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=folder).close()


def remove_parts(folder: Path) -> None:
    """Remove what killed processes have left in a folder; what another run is writing, for a moment
    only, stays.
    """
    for part in folder.glob(".part-*"):
        with contextlib.suppress(FileNotFoundError):  # it has just got its name
            if time.time() - part.stat().st_mtime > WRITING:
                part.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a text file of which nobody ever sees a half."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


class Lines:
    """A stream to which a progress bar can write where there is no terminal: a line each time."""

    def write(self, text: str) -> None:
        """Print the text, if there is any, as a line of its own."""
        if text := text.strip():
            print(text, flush=True)

    def flush(self) -> None:
        """Nothing is left to print."""


class Bar(tqdm):
    """A progress bar without the thread and the lock of multiprocessing that tqdm adds."""

    monitor_interval = 0


Bar.set_lock(RLock())


@contextlib.contextmanager
def progress(
    label: str, total: int | None, start: int = 0, unit: str = "bytes"
) -> Iterator[Callable[[int], None]]:
    """Give a function that is told the amount done, and show it, the rate and the time left.

    On a terminal this is a bar. Where output goes to a file, it is a line every half minute.
    `start`, which was done before, is left out of the rate.
    """
    amounts = (
        {"unit": "B", "unit_scale": True, "unit_divisor": 1000}
        if unit == "bytes"
        else {"unit": f" {unit}"}
    )
    pace = {"miniters": 1, "desc": label, "total": total, "initial": start, **amounts}
    if sys.stdout.isatty():
        # tqdm shows nothing where the size is not known
        columns, lines = shutil.get_terminal_size()
        bar = Bar(**pace, file=sys.stdout, ncols=columns, nrows=lines)
    else:
        amount = "{desc}: {n_fmt} of {total_fmt}" if total else "{desc}: {n_fmt}"
        form = amount + ", {rate_fmt}" + (", {remaining} left" if total else "")
        seconds = {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS}
        bar = Bar(**pace, **seconds, file=Lines(), leave=False, bar_format=form)
    with bar:
        yield lambda done: bar.update(done - bar.n)


def counted(items: Iterable, label: str, total: int, unit: str) -> Iterator:
    """Yield the items, and show how many of them are done with."""
    with progress(label, total, unit=unit) as show:
        for done, item in enumerate(items, 1):
            yield item
            show(done)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence stdout and stderr, also for what C++ libraries print."""
    sys.stdout.flush()
    sys.stderr.flush()
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
