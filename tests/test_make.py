"""make as a newcomer uses it before anything is trained: help, predict and serve, in their small
environment.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import ROOT, accept_ctrl_c, make
from emulator import free_ports, wait_for
from odd_images import JPEG


@contextlib.contextmanager
def served(*words: str) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """Run `make serve` on free ports; give its process, the address that it prints, and the words
    for its ports.
    """
    port, page_port = free_ports(2)
    ports = [f"PORT={port}", f"PAGE_PORT={page_port}"]
    command = ["make", "--no-print-directory", "serve", *ports, *words]
    options = {"cwd": ROOT, "text": True, "start_new_session": True, "preexec_fn": accept_ctrl_c}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    try:
        for line in process.stdout:
            if line.startswith("open "):
                yield process, re.search(r"http://\S+", line)[0], ports
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)


def assert_free(ports: list[str]) -> None:
    """Nobody listens there any longer."""
    for port in (word.partition("=")[2] for word in ports):
        with pytest.raises(ConnectionRefusedError):
            for _ in range(1000):  # the emulator takes a moment
                socket.create_connection(("127.0.0.1", int(port))).close()
                time.sleep(0.1)


def test_serve_shows_the_page_answers_and_ends():
    with served() as (process, address, ports):
        wait_for(int(ports[0].partition("=")[2]), process)
        for _ in range(2000):
            with contextlib.suppress(OSError):
                page = urllib.request.urlopen(
                    urllib.request.Request(address, headers={"Accept": "text/html"}), timeout=300
                )
                break
            time.sleep(0.1)
        assert b"Which breed is this dog?" in page.read()
        headers = {"Content-Type": "image/jpeg"}
        answer = urllib.request.urlopen(
            urllib.request.Request(f"{address}/?top_k=1", JPEG, headers), timeout=300
        )
        assert b'"known"' in answer.read()
        again = make("serve", *ports)
        assert (
            again.returncode != 0
            and "is in use; choose others: make serve PORT=8090 PAGE_PORT=9090" in again.stdout
        )
        os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read().splitlines()
        process.wait(120)
    assert sum('"outcome": "ok"' in line for line in said) == 2
    [how] = [line for line in said if line.startswith("or ask: ")]
    assert how.endswith(f"test.py --file photo.jpg --endpoint {address}/")
    assert not [
        line for line in said if line[0] != "{" and not line.startswith(("or ask: ", "make: "))
    ]
    assert_free(ports)


def test_serve_ends_with_its_make():
    with served() as (process, _, ports):
        wait_for(int(ports[0].partition("=")[2]), process)
        process.terminate()  # make alone, as `kill` does
        process.wait(120)
        assert_free(ports)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict"], "name a photo: make predict IMAGE=photo.jpg"),
        (["predict", "IMAGE=no.jpg"], "test.py: there is no file no.jpg"),
        (
            ["predict", "IMAGE={photo}", "MODEL=no.tflite"],
            "test.py: there is no model file no.tflite",
        ),
        (
            ["teach"],
            "name a folder with a sub-folder of photos for each class: make teach IMAGES=my_photos",
        ),
        (["teach", "IMAGES=no such"], "teach.py: there is no folder no such"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(photo, words, said):
    done = make(*(word.format(photo=photo) for word in words))
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode != 0 and lines[-2] == said and lines[-1].startswith("make: ***")


def test_models_with_spaces_in_their_names():
    done = make("-n", "serve", "predict", "MODEL=my classes.tflite", "IMAGE=a dog.jpg")
    assert (
        'MODEL_FILE="my classes.tflite" ' in done.stdout
        and 'test -f "my classes.tflite"' in done.stdout
    )
    assert '--model "my classes.tflite" --file "a dog.jpg"' in done.stdout


def test_deploy_builds_for_what_the_stack_was_told(tmp_path):
    for name, says in (
        ("aws", "echo Architecture=arm64 Model=models/dog_breeds_120.tflite"),
        ("sam", f'echo "$@" >>{tmp_path}/told'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    done = make("deploy", "PARAMETERS=MemorySize=1769", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    built, deployed = (tmp_path / "told").read_text().splitlines()
    kept = "Architecture=arm64 Model=models/dog_breeds_120.tflite"
    assert built == f"build --parameter-overrides {kept} MemorySize=1769"
    assert deployed == "deploy --parameter-overrides MemorySize=1769"


def test_serving_environment_has_the_versions_that_are_tested_and_no_tensorflow():
    tested = re.findall(
        r"^[a-z0-9-]+==\S+(?:; \S+ \S+ \S+)?", (ROOT / "requirements.txt").read_text(), re.M
    )
    pins = (ROOT / "requirements-serving.txt").read_text().splitlines()
    pins = [line for line in pins if line[0] != "#"]
    assert len(pins) == 9 and "tensorflow" not in str(pins)
    for pin in pins:
        assert any(line.split(";")[0] == pin.split(";")[0] for line in tested), pin


def test_help_names_every_target():
    done = make("help")
    targets = re.findall(r"^\.PHONY: (.+)", (ROOT / "Makefile").read_text(), re.M)[0].split()
    assert all(f"make {target}" in done.stdout for target in targets if target != "help")
    assert make().stdout == done.stdout and "#" not in done.stdout


def test_clean_removes_only_what_the_demo_wrote(tmp_path):
    """In a copy of the project's folder, whose environments are empty."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    mine = {tmp_path / "Makefile"}
    for folder in (".venv", ".venv-serving", "demo/data/raw", "demo/plots", "photos"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    for name in ("made-by-make-demo", "xception_v1_30_0.966.h5", "serve.log", "notes.txt"):
        (tmp_path / "demo" / name).touch()

    def clean(*words):
        command = ["make", "--no-print-directory", "clean", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.stdout, {path for path in tmp_path.rglob("*") if path.is_file()}

    mine |= {tmp_path / "photos/file", tmp_path / "demo/notes.txt"}
    for other in ("photos", ".", str(tmp_path)):
        said, left = clean(f"DEMO={other}")
        assert f"{other} is kept, because make demo did not make it" in said and left > mine
    assert clean()[1] == mine
    (tmp_path / "demo/notes.txt").rename(tmp_path / "notes.txt")
    (tmp_path / "demo/made-by-make-demo").touch()
    clean()
    assert not (tmp_path / "demo").exists()


def test_the_demo_takes_no_folder_with_other_files(tmp_path):
    (tmp_path / "notes.txt").touch()
    done = make("demo", f"DEMO={tmp_path}")
    assert done.returncode != 0
    assert (
        f"{tmp_path} holds other files; name another folder: make demo DEMO=FOLDER" in done.stdout
    )
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_the_demo_is_made_again_when_a_module_changes(tmp_path):
    stages = {
        "data/dataset": "make_dataset",
        "data/crops": "data_selection",
        "plots/eda.png": "exploratory_data_analysis",
        "model": "training",
        "top_10_dog_breeds.tflite": "convert_model",
    }
    (tmp_path / "made-by-make-demo").touch()
    for number, name in enumerate(stages):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (4e9 + number, 4e9 + number))  # newer than all files

    def again(file):
        done = make(
            "--dry-run", "demo", f"DEMO={tmp_path}", *(f"--what-if={name}" for name in file)
        )
        return set(re.findall(r"^echo \"--- (\w+)\.py", done.stdout, re.M)) - {"lambda_function"}

    assert again([]) == set()
    everything = set(stages.values())
    assert again(["dog_breeds/workers.py"]) == again(["dog_breeds/data/archives.py"]) == everything
    learned = everything - {"make_dataset", "data_selection"}
    assert again(["dog_breeds/learning/heads.py"]) == learned
    assert again(["training.py"]) == {"training", "convert_model"}
    assert again(["dog_breeds/clients/gateway.py"]) == set()
