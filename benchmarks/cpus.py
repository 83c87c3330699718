"""Compare one network on several CPUs and runtimes: milliseconds, and how the features differ.

Example

    python benchmarks/cpus.py                          # a minute
    python benchmarks/cpus.py --photos DIR --arm64     # also an emulated Graviton2: 10 minutes more
    python benchmarks/cpus.py --run avx2 benchmarks/teach.py       # any script with AVX2

Time      One to three minutes; with --arm64 ten minutes more.
Expect    CPU milliseconds, the median; `of_litert`, their share of LiteRT's on the same CPU;
          `features_off`, the mean distance to LiteRT's features on the first CPU, as a share of
          their length (0: the same to the bit); `same_bits`, 1 if a runtime's features are the same
          as on the first CPU.
Needs     for ONNX Runtime and OpenVINO:
          pip install onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
          For --arm64: what tests/test_arm64.py needs.

LiteRT, ONNX Runtime and OpenVINO run the committed backbone, the last two also with weights of 7
bits. Each runtime has its own process and one thread. All take turns, one inference at a time.

Each runtime is shown the CPUs that this CPU can imitate: with VNNI, AVX-512 without VNNI, AVX2 with
AVX-VNNI, AVX2 alone. For this, the script copies the runtime's package and replaces each CPUID
instruction in its libraries by a breakpoint, which benchmarks/hide_cpu.c answers. That needs Linux
on x86-64, a C compiler and objdump. Without them, only the real CPU is shown. --run starts a
script whose LiteRT sees an older CPU; its NumPy sees the real one. The emulation of --arm64 shows
features, but says nothing about speed."""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import other_runtimes
from common import MODEL, Figure, command_line, report
from PIL import Image

SOURCE = Path(__file__).with_name("hide_cpu.c")
# Per CPU: the flag of /proc/cpuinfo that the real CPU must have, and what is hidden of it
CPUS = {
    "vnni": ("avx512_vnni", ("amx",)),
    "avx512": ("avx512f", ("amx", "vnni", "avx_vnni")),
    "avx_vnni": ("avx_vnni", ("amx", "avx512", "vnni")),
    "avx2": ("avx2", ("amx", "avx512", "vnni", "avx_vnni")),
}
PACKAGES = {"litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}
CPUID, BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"  # of equal length; a NOP follows the breakpoint
FLAGS = {"amx": "amx_int8", "avx512": "avx512f", "vnni": "avx512_vnni", "avx_vnni": "avx_vnni"}
RUNTIMES = ("litert", "onnxruntime", "openvino", "onnxruntime_7bit", "openvino_7bit")


def shown_cpus(flags: set[str]) -> tuple[dict[str, tuple], dict[str, str]]:
    """Return what to hide for each CPU that can be imitated, and why the other CPUs cannot.

    `flags` are those of /proc/cpuinfo. Nothing is hidden for the real CPU."""
    shown, missing = {}, {}
    for name, (needed, hidden) in CPUS.items():
        there = tuple(feature for feature in hidden if FLAGS[feature] in flags)
        if needed not in flags:
            missing[name] = f"this CPU has no {needed}"
        elif there and not (shutil.which("cc") and shutil.which("objdump")):
            missing[name] = "a C compiler (cc) or objdump is missing"
        else:
            shown[name] = there
    return shown, missing


# --- An older CPU ---------------------------------------------------------------------------------


def patch_package(package: str, folder: Path) -> None:
    """Copy an installed package to a folder, with a breakpoint for each CPUID instruction.

    objdump finds the instructions, since the same two bytes also occur inside other instructions.
    """
    [source] = find_spec(package).submodule_search_locations
    copy = folder / package
    shutil.copytree(source, copy)
    for library in copy.rglob("*.so*"):
        content = bytearray(library.read_bytes())
        if CPUID not in content:
            continue
        listed = subprocess.run(["objdump", "-hw", library], capture_output=True, text=True).stdout
        sections = {}  # name -> distance from an address in memory to its place in the file
        for line in listed.splitlines():
            if found := re.match(r" +\d+ (\S+) +\w+ +(\w+) +\w+ +(\w+) .*CODE", line):
                sections[found[1]] = int(found[3], 16) - int(found[2], 16)
        for section, distance in sections.items():
            command = ["objdump", "-d", "-j", section, library]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout:
                    if line.endswith("\tcpuid\n"):
                        place = int(line.partition(":")[0], 16) + distance
                        assert content[place : place + 2] == CPUID
                        content[place : place + 2] = BREAKPOINT
        library.write_bytes(content)


def older_cpu(hidden: tuple, folder: Path) -> dict[str, str]:
    """Return the environment in which a process sees a CPU without some features.

    `folder` has the patched packages and hide_cpu.so."""
    if not hidden:
        return dict(os.environ)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "HIDE": ",".join(hidden),
        "LD_PRELOAD": str(folder / "hide_cpu.so"),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def make_older_cpus(runtimes: Iterable[str], folder: Path) -> None:
    """Fill the folder of `older_cpu` for these runtimes."""
    folder.mkdir()
    library = folder / "hide_cpu.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
    for runtime in runtimes:
        patch_package(PACKAGES[runtime], folder)


def run_script(cpu: str, script: list[str]) -> int:
    """Run a Python script whose LiteRT sees an older CPU. Return its exit status."""
    shown, missing = shown_cpus(set(Path("/proc/cpuinfo").read_text().split()))
    if cpu in missing:
        raise ValueError(f"{cpu} cannot be shown here: {missing[cpu]}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "older")
        make_older_cpus(["litert"], folder)
        return subprocess.run(
            [sys.executable, *script], env=older_cpu(shown[cpu], folder)
        ).returncode


# --- Side by side ---------------------------------------------------------------------------------


class Worker:
    """A runtime in its own process, on a CPU with some instructions hidden."""

    def __init__(self, runtime: str, file: Path, pixels: Path, env: dict[str, str]) -> None:
        """Start the process on a model file and photos (.npy), and ask for the features of all
        photos."""
        words = [sys.executable, __file__, "--worker", runtime, file, pixels]
        self.process = subprocess.Popen(
            list(map(str, words)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.features = np.array(self.ask("features"), np.float32)
        self.milliseconds: list[float] = []

    def ask(self, what: str) -> object:
        """Return the worker's answer to a word. Raises RuntimeError if the worker has ended."""
        print(what, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[2:])} has ended")
        return json.loads(line)


def work(runtime: str, file: str, pixels: str) -> None:
    """Answer the lines on stdin: `features` of all photos, or the `time` of an inference."""
    photos = np.load(pixels)
    run = getattr(other_runtimes, runtime.removesuffix("_7bit"))(Path(file))
    for number, line in enumerate(sys.stdin):
        if line.strip() == "features":
            print(json.dumps([run(photo[None]).tolist() for photo in photos]), flush=True)
        else:
            start = time.process_time()
            run(photos[number % len(photos)][None])
            print(json.dumps((time.process_time() - start) * 1e3), flush=True)


def drawn_photos(number: int) -> list[Image.Image]:
    """Return images of soft coloured blocks."""
    rng = np.random.default_rng(0)
    blocks = (rng.integers(0, 256, (12, 12, 3), np.uint8) for _ in range(number))
    return [Image.fromarray(one).resize((500, 375), Image.Resampling.BICUBIC) for one in blocks]


def write_photos(folder: Path | None, number: int, target: Path) -> list[Path]:
    """Write photos of a folder, or drawn images, as 1.jpg, 2.jpg ... into the folder `target`."""
    target.mkdir()
    if folder:
        files = sorted(folder.rglob("*.jpg"))
        if not files:
            raise ValueError(f"there is no .jpg in {folder}")
        files = files[:: max(len(files) // number, 1)][:number]
        photos = [Image.open(file).convert("RGB") for file in files]
    else:
        photos = drawn_photos(number)
    for count, photo in enumerate(photos):
        photo.save(target / f"{count:03}.jpg")
    return sorted(target.iterdir())


def files_for_runtimes(model: Path, folder: Path) -> dict[str, Path]:
    """Write the network in each runtime's format. Return the files of the installed runtimes."""
    files = {"litert": model}
    seven = folder / "7bit.tflite"
    seven.write_bytes(other_runtimes.with_7_bit_weights(model))
    if find_spec("openvino"):
        files |= {"openvino": model, "openvino_7bit": seven}
    if find_spec("onnx") and find_spec("onnxruntime"):
        for name, file in (("onnxruntime", model), ("onnxruntime_7bit", seven)):
            files[name] = folder / f"{name}.onnx"
            files[name].write_bytes(other_runtimes.to_onnx(file))
    return {name: files[name] for name in RUNTIMES if name in files}


def distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean distance between rows, as a share of the reference's length."""
    lengths = np.linalg.norm(reference, axis=1)
    return float(np.mean(np.linalg.norm(features - reference, axis=1) / lengths))


def side_by_side(model: Path, photos: list[Path], rounds: int, folder: Path) -> Iterator[Figure]:
    """Yield the figures of every CPU that can be shown."""
    from dog_breeds.serving.facts import read_facts
    from dog_breeds.serving.pixels import read_pixels

    facts = read_facts(model)
    pixels = folder / "pixels.npy"
    size, share = facts["input"]["height"], facts["photo_share"]
    np.save(pixels, np.stack([read_pixels(file, size, share) for file in photos]).astype("f4"))
    shown, missing = shown_cpus(set(Path("/proc/cpuinfo").read_text().split()))
    for name, why in missing.items():
        print(f"# {name}: not shown here; {why}")
    files = files_for_runtimes(model, folder)
    if any(shown.values()):
        make_older_cpus([name for name in files if name in PACKAGES], folder / "older")
    for name in RUNTIMES:
        if name not in files:
            print(f"# {name}: not installed; see --help")

    workers = {}
    try:
        reference = None
        for cpu, hidden in shown.items():
            for runtime, file in files.items():
                worker = Worker(runtime, file, pixels, older_cpu(hidden, folder / "older"))
                workers[cpu, runtime] = worker
                reference = worker.features if reference is None else reference
        for _ in range(rounds):
            for worker in workers.values():
                worker.milliseconds.append(worker.ask("time"))
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    first = next(iter(shown), None)
    for (cpu, runtime), worker in workers.items():
        name = f"{cpu}_{runtime}"
        milliseconds = statistics.median(worker.milliseconds)
        yield f"{name}_ms", milliseconds, "ms"
        if runtime != "litert":
            litert = statistics.median(workers[cpu, "litert"].milliseconds)
            yield f"{name}_of_litert", milliseconds / litert, ""
        yield f"{name}_features_off", distance(worker.features, reference), ""
        if cpu != first:
            same = np.array_equal(worker.features, workers[first, runtime].features)
            yield f"{name}_same_bits", same, ""


def emulated(model: Path, photos: list[Path], folder: Path) -> Iterator[Figure]:
    """Yield how the handler's features on an emulated Graviton2 differ from those on this machine.

    The handler runs once with the two files that the image puts into /sys, and once without them.
    """
    from arm64 import SCORES, image_files, make_root, run_arm64, why_not
    from handler_process import run_python

    if why_not():
        raise ValueError(why_not())
    here = run_python(SCORES, 0, *photos, MODEL_FILE=str(model)).stdout
    reference = features_in(here)
    root = make_root(folder)
    for photo in photos:
        shutil.copy(photo, root / "tmp")
    inside = [f"/tmp/{photo.name}" for photo in photos]
    for name, files in (("arm64", image_files()), ("arm64_without_files", {})):
        done = run_arm64(root, model, files, SCORES, 0, *inside)
        if done.returncode:
            raise RuntimeError(done.stderr)
        features = features_in(done.stdout)
        yield f"{name}_accelerated", json.loads(done.stdout)[0]["accelerated"], ""
        yield f"{name}_photos", len(features), ""
        yield f"{name}_photos_same_bits", (features == reference).all(axis=1).sum(), ""
        yield f"{name}_features_off", distance(features, reference), ""


def features_in(printed: str) -> np.ndarray:
    """Return the features, float32 [n, D], that the code of tests/arm64.py has printed."""
    rows = json.loads(printed.splitlines()[-1])[1]
    return np.stack([np.frombuffer(bytes.fromhex(row[1]), np.float32) for row in rows])


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--run"]:
        sys.exit(run_script(sys.argv[2], sys.argv[3:]))
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help=f"default: {MODEL.name}")
    parser.add_argument("--photos", type=Path, help="folder of .jpg (default: drawn images)")
    parser.add_argument("--number", type=int, default=20, help="of photos (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--arm64", action="store_true", help="emulate a Graviton2, too")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar=("CPU", "SCRIPT"), help="run a script, see above"
    )
    args = parser.parse_args()

    def figures(folder: Path) -> Iterator[Figure]:
        photos = write_photos(args.photos, args.number, folder / "photos")
        yield from side_by_side(args.model, photos, args.rounds, folder)
        if args.arm64:
            yield from emulated(args.model, photos, folder)

    with tempfile.TemporaryDirectory() as folder:
        report(figures(Path(folder)), args.json)


if __name__ == "__main__":
    main()
