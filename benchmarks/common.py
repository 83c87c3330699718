"""What the benchmarks share: paths, --json, how figures are printed, seconds and memory. Nothing to
run.

A script hands a generator of figures to `report`. Whatever imports this module finds the project
and its tests.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from handler_process import family  # noqa: E402  of the tests, which have only now a path

from dog_breeds import recipe  # noqa: E402

MODEL = recipe.MODEL
SPLIT_FILE = ROOT / "benchmarks" / "official_split.csv"  # of the ten breeds
SPLIT_HELP = "rows of image,split (default: benchmarks/official_split.csv, the ten breeds)"

Figure = tuple[str, float, str]  # name, value, unit

# --- Figures --------------------------------------------------------------------------------------

UNITS = {"_per_s": "1/s", "_ms": "ms", "_s": "s", "_mb": "MB"}  # by the ending of a name


def command_line(docstring: str) -> argparse.ArgumentParser:
    """Return a parser that shows a script's docstring, with the option that all have."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures to this file too, as one object",
    )
    return parser


def with_units(values: dict[str, float], prefix: str = "") -> Iterator[Figure]:
    """Yield figures with the units that their names tell."""
    for name, value in values.items():
        unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
        yield prefix + name, value, unit


def report(figures: Iterable[Figure], file: Path | None) -> None:
    """Print the machine, and `name = value unit` of each figure as it comes; write all to a JSON
    file, if one is named.

    A file that is missing or wrong ends the script with one line.
    """
    print(f"# {machine()}", flush=True)
    values = {}
    try:
        try:
            for name, value, unit in figures:
                values[name] = float(value)
                digits = ".4g" if abs(value) < 1000 else ".0f"
                print(f"{name} = {values[name]:{digits}} {unit}".rstrip(), flush=True)
        finally:  # what came before an end too early took long, too
            if file:
                file.write_text(json.dumps(values, indent=1) + "\n")
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def machine() -> str:
    """Return what speeds depend on: CPUs, and the instructions they have that make int8 several
    times faster.
    """
    with contextlib.suppress(OSError):
        words = Path("/proc/cpuinfo").read_text()
        name = next(iter(re.findall(r"^model name\s*: (.+)", words, re.M)), "a CPU")
        found = {"avx512_vnni", "avx_vnni", "asimddp"} & set(words.split())
        return f"{os.cpu_count()} x {name}, int8 dot products: {', '.join(sorted(found)) or 'none'}"
    return f"{os.cpu_count()} CPUs"


# --- Time and memory ------------------------------------------------------------------------------


def timed(function: Callable, *arguments: object) -> float:
    """Return the seconds that a call takes, begun with nothing left to write to the disk."""
    os.sync()
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def run_watched(command: Sequence[object], every: float = 1) -> tuple[float, int]:
    """Run a command of Python; return its seconds, and the peak of `memory`, seen `every` so many
    seconds.

    To look costs milliseconds, in which the processes wait.
    """
    words, peak = [sys.executable, *map(str, command)], 0
    os.sync()
    start = time.perf_counter()
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            while process.returncode is None:
                peak = max(peak, memory(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(every)
        finally:
            process.kill()  # when this script is interrupted
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed")
    return seconds, peak


def memory(pid: int) -> int:
    """Return the bytes that a process and its descendants hold, what they share counted once (PSS).
    Needs Linux.
    """
    total = 0
    for member in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
