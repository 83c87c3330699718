"""A process that runs a model file. It never imports TensorFlow, beside which the serving runtime crashes."""

import importlib
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dog_breeds.console import progress
from dog_breeds.pixels import read_pixels
from dog_breeds.workers import cpu_count, in_processes

Picture = tuple[Path, float]  # a file, and the central share of its sides that the model is to see


def predict_files(
    file: Path, pictures: Sequence[Picture], runtime: str = "ai_edge_litert", threads: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Run a .tflite file on pictures in the serving runtime; return probabilities [n, N] and similarities [n].

    By default it uses as many threads as the process may use CPUs. Raises RuntimeError if the runtime cannot run it.
    """
    threads = threads or cpu_count()
    tasks = [(file, runtime, threads, picture) for picture in pictures]
    outputs = []
    try:
        with progress(f"{runtime} on {threads} threads", len(tasks), unit="pictures", scale=1) as show:
            for output in in_processes(predict_file, tasks, processes=1):
                outputs.append(output)
                show(len(outputs))
    except (BrokenExecutor, ValueError) as error:
        raise RuntimeError(f"{runtime} cannot run the converted file: {error}") from None
    probabilities, similarities = zip(*outputs, strict=True)
    return np.array(probabilities), np.array(similarities)


def predict_file(file: Path, runtime: str, threads: int, picture: Picture) -> tuple[np.ndarray, float]:
    """Return probabilities float32 [N] and similarity of a picture."""
    interpreter = load_interpreter(file, runtime, threads)
    pixels = interpreter.get_input_details()[0]
    interpreter.set_tensor(pixels["index"], load_input(picture, pixels["shape"][1]))
    interpreter.invoke()
    outputs = [interpreter.get_tensor(output["index"])[0] for output in interpreter.get_output_details()]
    similarity, probabilities = sorted(outputs, key=len)
    return probabilities, float(similarity[0])


@lru_cache(maxsize=1)
def load_interpreter(file: Path, runtime: str, threads: int) -> Any:
    """Load a .tflite file, once in a process."""
    interpreter = importlib.import_module(f"{runtime}.interpreter").Interpreter(str(file), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def load_input(picture: Picture, size: int) -> np.ndarray:
    """Return a picture as the model takes it: float32 RGB 0..255, [1, size, size, 3]."""
    path, share = picture
    return read_pixels(path, size, share).astype(np.float32)[None]
