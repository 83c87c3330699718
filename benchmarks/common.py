"""Share paths, --json, printing, timing and memory between the benchmarks. Nothing to run.

A script passes a generator of figures to `report`. Importing this module makes the project and its
tests importable."""

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
from handler_process import family  # noqa: E402  a test module: its path was just added

from dog_breeds import recipe  # noqa: E402

MODEL = recipe.MODEL
SPLIT_FILE = ROOT / "benchmarks" / "official_split.csv"  # for the ten breeds
SPLIT_HELP = "rows of image,split (default: benchmarks/official_split.csv, the ten breeds)"

Figure = tuple[str, float, str]  # name, value, unit

# --- Figures --------------------------------------------------------------------------------------

UNITS = {"_per_s": "1/s", "_ms": "ms", "_s": "s", "_mb": "MB"}  # by the end of a figure's name


def command_line(docstring: str) -> argparse.ArgumentParser:
    """Return a parser that shows a script's docstring and has the options of all benchmarks."""
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
    """Yield each figure with the unit that its name implies."""
    for name, value in values.items():
        unit = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")
        yield prefix + name, value, unit


def report(figures: Iterable[Figure], file: Path | None) -> None:
    """Print the machine, then each figure as `name = value unit` as soon as it is measured.

    Write all figures to a JSON file, if one is named. A missing or wrong file ends the script with
    one line."""
    print(f"# {machine()}", flush=True)
    values = {}
    try:
        try:
            for name, value, unit in figures:
                values[name] = float(value)
                digits = ".4g" if abs(value) < 1000 else ".0f"
                print(f"{name} = {values[name]:{digits}} {unit}".rstrip(), flush=True)
        finally:  # keep the slow measurements made before an error
            if file:
                file.write_text(json.dumps(values, indent=1) + "\n")
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def machine() -> str:
    """Return what speeds depend on: the CPUs, and those of their instructions that make int8
    several times faster."""
    with contextlib.suppress(OSError):
        words = Path("/proc/cpuinfo").read_text()
        name = next(iter(re.findall(r"^model name\s*: (.+)", words, re.M)), "a CPU")
        found = {"avx512_vnni", "avx_vnni", "asimddp"} & set(words.split())
        return f"{os.cpu_count()} x {name}, int8 dot products: {', '.join(sorted(found)) or 'none'}"
    return f"{os.cpu_count()} CPUs"


# --- Time and memory ------------------------------------------------------------------------------


def timed(function: Callable, *arguments: object) -> float:
    """Return the seconds of a call. Pending disk writes are finished before the clock starts."""
    os.sync()
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def run_watched(command: Sequence[object], every: float = 1) -> tuple[float, int]:
    """Run a Python command. Return its seconds and the peak of `memory`, sampled every `every`
    seconds.

    A sample takes milliseconds, during which the processes wait."""
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
            process.kill()  # if this script is interrupted
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed")
    return seconds, peak


def memory(pid: int) -> int:
    """Return the bytes that a process and its descendants hold. Shared memory counts once (PSS).

    Needs Linux."""
    total = 0
    for member in family(pid):
        # The process may have just ended
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
