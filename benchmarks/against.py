"""Compare the speed of this checkout with another commit: demo, test suite, training of ten breeds.

Reads     a data folder with photos and weights (made by make_dataset.py), and the git history.
          Changes neither.
Example

    python benchmarks/against.py 9247ac2 --data-dir data --json against.json
    python benchmarks/against.py HEAD~1 --only training

Time      Twice as long as the measured steps, and a few minutes for another environment.
Expect    One figure a line: the seconds here, the seconds at the commit, and how many times as
          fast this checkout is. The machine should do nothing else.

The commit gets its own environment, unless the environment of this checkout has all that the commit
requires. Both checkouts take turns on one machine. Weights and environments exist before the clock
starts; features do not."""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common import ROOT, SPLIT_FILE, Figure, command_line, report

from dog_breeds.data.dataset import DATA_DIR, annotation_dir, images_dir, weights_path

ENVIRONMENTS = {".venv": "requirements.txt", ".venv-serving": "requirements-serving.txt"}


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Yield a folder with a commit's files and environments. Remove it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "checkout"
        run(ROOT, "git", "worktree", "add", "--quiet", "--detach", tree, commit)
        try:
            for environment, requirements in ENVIRONMENTS.items():
                add_environment(tree, environment, requirements)
            yield tree
        finally:
            run(ROOT, "git", "worktree", "remove", "--force", tree)


def add_environment(tree: Path, environment: str, requirements: str) -> None:
    """Link this checkout's environment into another checkout if it has every required package.
    Otherwise make a new one."""

    def pins(folder: Path) -> set[str]:
        text = (folder / requirements).read_text()
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return set(filter(None, lines))

    if pins(tree) <= pins(ROOT) and (ROOT / environment / "installed").exists():
        (tree / environment).symlink_to((ROOT / environment).resolve())
        # An old date keeps make from installing the packages again
        os.utime(tree / requirements, (0, 0))
    else:
        run(tree, "make", f"{environment}/installed")


def run(folder: Path, *command: object, **env: str) -> float:
    """Run a command in a folder and return its seconds.

    Raises RuntimeError, with the end of its output, if the command fails."""
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} in {folder} failed:\n{done.stdout[-3000:]}"
        )
    return seconds


# --- What is timed --------------------------------------------------------------------------------


def time_demo(tree: Path, data_dir: Path, folder: Path) -> float:
    """Return the seconds of `make demo` in a new folder that has the weights already."""
    demo = folder / "demo"
    link_weights(data_dir, demo / "data")
    (demo / "made-by-make-demo").touch()  # `make demo` recognises its folder by this file
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return run(tree, "make", "demo", f"DEMO={demo}", f"PORT={port}")


def time_suite(tree: Path, data_dir: Path, folder: Path) -> float:
    """Return the seconds of `make test`, with the weights where the suite keeps them."""
    store = tree / ".pytest_cache" / "d" / "data"
    if not weights_path(store).exists():
        link_weights(data_dir, store)
    return run(tree, "make", "test")


def time_training(tree: Path, data_dir: Path, folder: Path) -> float:
    """Return the seconds for ten breeds on the official split, from crops to the model file."""
    data, python = folder / "data", tree / ".venv" / "bin" / "python"
    link_weights(data_dir, data)
    for folder_of in (images_dir, annotation_dir):
        folder_of(data).parent.mkdir(exist_ok=True)
        folder_of(data).symlink_to(folder_of(data_dir).resolve())
    run(tree, python, "data_selection.py", "--data-dir", data, "--breeds", "top10")
    training = ["training.py", "--data-dir", data, "--split-file", SPLIT_FILE]
    seconds = run(tree, python, *training, "--output-dir", folder)
    [model] = folder.glob("*.h5")
    output = folder / "model.tflite"
    return seconds + run(tree, python, "convert_model.py", model, "--output", output)


def link_weights(data_dir: Path, target: Path) -> None:
    """Copy the weights into another data folder."""
    weights_path(target).parent.mkdir(parents=True)
    shutil.copy(weights_path(data_dir), weights_path(target))


PARTS: dict[str, Callable[[Path, Path, Path], float]] = {
    "demo": time_demo,
    "suite": time_suite,
    "training": time_training,
}


def measure(args: argparse.Namespace) -> Iterator[Figure]:
    """Yield the seconds of each part here and at the commit, and their ratio."""
    if not weights_path(args.data_dir).is_file():
        raise FileNotFoundError(f"no weights in {args.data_dir}; run make_dataset.py first")
    with checked_out(args.commit) as other:
        for part in args.only:
            seconds: dict[Path, list[float]] = {ROOT: [], other: []}
            for _ in range(args.rounds):
                for tree, times in seconds.items():
                    with tempfile.TemporaryDirectory() as folder:
                        times.append(PARTS[part](tree, args.data_dir.resolve(), Path(folder)))
            here, there = map(statistics.median, seconds.values())
            yield f"{part}", here, "s"
            yield f"{part}_at_{args.commit}", there, "s"
            yield f"{part}_speedup", there / here, "x"


def main() -> None:
    """Parse the arguments, measure and print the figures."""
    parser = command_line(__doc__)
    parser.add_argument("commit", metavar="COMMIT", help="any name that git knows")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts alone"
    )
    parser.add_argument(
        "--rounds", type=int, default=1, metavar="N", help="turns of each (default: 1)"
    )
    args = parser.parse_args()
    try:
        report(measure(args), args.json)
    except RuntimeError as error:
        sys.exit(f"against.py: {error}")


if __name__ == "__main__":
    main()
