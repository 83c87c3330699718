"""Measure the cost of a prediction on AWS Lambda: time, requests a second, dollars at three sizes.

Reads     models/dog_breeds_120.tflite. With --prices, a file with the prices that differ:
          {"x86": 0.0000195, "requests": 0.24}.
Example

    python benchmarks/cost.py --json cost.json        # uses models/dog_breeds_120.tflite
    python benchmarks/cost.py --prices prices.json    # prices of another region

Expect    For each memory size: milliseconds from the start of Python to the first answer; the mean
          of warm calls about upright images, and about an image that seems turned, which takes four
          inferences; the peak memory. Then the cost of a million predictions and of a thousand cold
          starts, and the effect of provisioned concurrency.

Lambda gives a function with M MB the share M / 1769 of a CPU. This script runs the handler in a
cgroup with that share. Graviton is not measured: its figures are the times of this machine,
multiplied by --arm-time. Needs root on Linux, for the cgroup."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import MODEL, ROOT, Figure, command_line, report, with_units
from handler import photo

# Dollars in us-east-1, first tier, as listed in August 2025: https://aws.amazon.com/lambda/pricing/
PRICES = {
    "x86": 0.0000166667,  # per GB-second
    "arm": 0.0000133334,
    "requests": 0.20,  # per million
    "x86_provisioned": 0.0000041667,  # per GB-second of being ready
    "arm_provisioned": 0.0000033334,
    "x86_provisioned_use": 0.0000097222,  # per GB-second of work in a provisioned container
    "arm_provisioned_use": 0.0000077778,
}
SIZES = (512, 1024, 1769)  # MB
FULL = 1769  # MB that come with a whole CPU
STARTS, CALLS = 10, 100
PERIOD = 20_000  # microseconds; the CPU share holds within each period
WORK = """
import base64, contextlib, io, json, os, sys, time
import lambda_function
calls, *files = sys.argv[1:]
lambda_function.MODEL = lambda_function.MODEL._replace(threshold=-1e9)  # the drawings are known
look = lambda_function.run_model
events = [{"image": base64.b64encode(open(file, "rb").read()).decode()} for file in files]

def ask(event, run=lambda pixels: (*look(pixels)[:2], 1.0)):
    lambda_function.run_model = run
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        answer = lambda_function.lambda_handler(event)
    assert "prediction" in answer, answer
    return 1000 * (time.perf_counter() - start)

ask(events[0])
print("answered", flush=True)
times = [[ask(event) for _ in range(int(calls))] for event in events]
times.append([ask(events[0], lambda pixels: (*look(pixels)[:2], -1.0)) for _ in range(int(calls))])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
means = [sum(values) / max(len(values), 1) for values in times]
print(json.dumps([means, int(peak.split()[1]) * 1024 / 1e6]))
"""


@contextlib.contextmanager
def share_of_cpu(share: float) -> Iterator[list[str]]:
    """Yield the command prefix that gives a command and its children this share of one CPU."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        group = Path(f"/sys/fs/cgroup/share-{os.getpid()}")
        group.mkdir()
        (group / "cpu.max").write_text(f"{round(PERIOD * share)} {PERIOD}")
    else:
        group = Path(f"/sys/fs/cgroup/cpu/share-{os.getpid()}")
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(round(PERIOD * share)))
    try:
        yield ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)  # wait for the last processes to end


def measure(model: Path, files: list[Path], share: float) -> dict[str, float]:
    """Return milliseconds and MB of the handler with a share of a CPU."""
    env = {**os.environ, "MODEL_FILE": str(model), "PYTHONPATH": str(ROOT)}
    starts = []
    with share_of_cpu(share) as prefix:
        for number in range(STARTS):
            calls = CALLS if number == STARTS - 1 else 0
            command = [*prefix, sys.executable, "-c", WORK, str(calls), *map(str, files)]
            start = time.perf_counter()
            with subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                answered = process.stdout.readline()
                starts.append(1000 * (time.perf_counter() - start))
                last = process.stdout.read()
            if not answered or process.returncode:
                raise RuntimeError("the handler failed")
    means, peak = json.loads(last)
    times = dict(
        zip(
            [*(f"{file.stem}_ms" for file in files), f"turned_{files[0].stem}_ms"],
            means,
            strict=True,
        )
    )
    return {"first_answer_ms": statistics.median(starts), **times, "peak_mb": peak}


def dollars(
    prices: dict[str, float], size: int, milliseconds: float, first: float, kind: str
) -> Iterator[Figure]:
    """Yield the cost of a memory size on x86 or arm, from the mean of a call and the time to a
    first answer."""
    name = f"{size}_mb_{kind}"
    second = size / 1024 * prices[kind]
    million = 1e6 * milliseconds / 1000 * second + prices["requests"]
    ready = size / 1024 * prices[f"{kind}_provisioned"]
    saved = second - size / 1024 * prices[f"{kind}_provisioned_use"]
    yield f"{name}_usd_a_million", million, "USD"
    yield f"{name}_usd_a_thousand_cold_starts", 1000 * first / 1000 * second, "USD"
    yield f"{name}_usd_a_month_of_one_provisioned", ready * 3600 * 730, "USD"
    yield f"{name}_provisioned_pays_above", ready / saved, "of the time"


def read_prices(file: Path | None) -> dict[str, float]:
    """Return PRICES, with the values of the file in place of the defaults.

    Raises ValueError, or OSError, for a wrong file."""
    given = json.loads(file.read_text()) if file else {}
    if not isinstance(given, dict) or given.keys() - PRICES.keys():
        raise ValueError(
            f"{file}: give an object of dollars with any of the names {', '.join(PRICES)}"
        )
    return PRICES | {name: float(price) for name, price in given.items()}


def measure_sizes(model: Path, prices: dict[str, float], arm_time: float) -> Iterator[Figure]:
    """Yield times, memory and costs at every memory size."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "500x375.jpg", Path(folder) / "12_megapixels.jpg"]
        files[0].write_bytes(photo(500, 375, 2))
        files[1].write_bytes(photo(4032, 3024, 2))
        for size in SIZES:
            try:
                times = measure(model.resolve(), files, size / FULL)
            except (OSError, RuntimeError) as error:
                sys.exit(f"cost.py: {error}; it needs root, a cgroup for CPUs and a model file")
            yield from with_units(
                {**times, "requests_per_s": 1000 / times["500x375_ms"]}, f"{size}_mb_"
            )
            for kind, ratio in (("x86", 1.0), ("arm", arm_time)):
                yield from dollars(
                    prices,
                    size,
                    times["500x375_ms"] * ratio,
                    times["first_answer_ms"] * ratio,
                    kind,
                )


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument(
        "--arm-time",
        type=float,
        default=1.0,
        help="Graviton's time to this one's (default: %(default)s)",
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help=f"JSON: dollars by name, of {', '.join(PRICES)}"
    )
    args = parser.parse_args()
    try:
        prices = read_prices(args.prices)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    report(measure_sizes(args.model, prices, args.arm_time), args.json)


if __name__ == "__main__":
    main()
