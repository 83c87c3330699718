"""The image: what goes into it, and that it answers when it is built and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from handler_process import ROOT, run_python
from odd_pictures import BREED, picture, saved

pytest_plugins = ["handler_fixtures"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BASE = "localhost/lambda-python:3.13"
IMAGE = "localhost/dog-breeds-test:latest"
# In a network of its own, so that the port 8080 of the image is free. The entry point and CMD are the image's own.
ASK = """
ip link set lo up
buildah run --isolation chroot "$1" -- /lambda-entrypoint.sh lambda_function.lambda_handler >"$2" 2>&1 &
trap 'kill $!' EXIT
for _ in $(seq 100); do
    if "$3" test.py --file "$4" 2>"$2.error"; then exit 0; fi
    sleep 0.2
done
cat "$2" "$2.error"
exit 1
"""


def copied() -> list[str]:
    """Files that the Dockerfile copies, as it is built by default."""
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE.replace("\\\n", " "), re.M)
    (model,) = re.findall(r"^ARG MODEL=(\S+)", DOCKERFILE, re.M)
    return " ".join(lines).replace("${MODEL}", model).split()


def test_context_holds_what_is_copied_and_no_more():
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert sorted(rules) == sorted("!*.tflite" if file.endswith(".tflite") else f"!{file}" for file in copied())


def test_code_that_is_copied_is_what_the_handler_imports(colour_model):
    """In a fresh process: of this project only what is in the image, and no library of training."""
    done = run_python("import sys, lambda_function; print(*sys.modules)", MODEL_FILE=str(colour_model))
    loaded = set(done.stdout.split())
    assert not {"tensorflow", "keras", "matplotlib", "requests"} & loaded
    ours = {"dog_breeds", *(file.stem for file in ROOT.glob("*.py"))}
    code = {file.removesuffix(".py").removesuffix("/__init__") for file in copied() if file.endswith(".py")}
    assert {name.replace(".", "/") for name in loaded if name.split(".")[0] in ours} == code


def test_commands_for_lambda_are_there():
    commands = "--provenance=false|--platform linux/amd64|docker run|get-login-password|docker tag|docker push"
    for part in commands.split("|"):
        assert part in DOCKERFILE
    (command,) = re.findall(r"^CMD (.+)", DOCKERFILE, re.M)
    module, function = json.loads(command)[0].split(".")
    assert f"def {function}(" in (ROOT / f"{module}.py").read_text()


def test_image_has_the_versions_that_are_tested():
    pins = [line for line in (ROOT / "requirements-lambda.txt").read_text().splitlines() if line and line[0] != "#"]
    tested = (ROOT / "requirements.txt").read_text()
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) and pin in tested


@pytest.fixture(scope="module")
def image(request, tmp_path_factory):
    """The image, built from a base image like AWS's, with the tiny model in place of the real one."""
    script = os.environ.get("LAMBDA_BASE_BUILD")
    if not script:
        pytest.skip("set LAMBDA_BASE_BUILD to a script that builds a base image like AWS's with buildah")
    subprocess.run([script, BASE], check=True, capture_output=True)
    context = tmp_path_factory.mktemp("context")
    (context / "dog_breeds").mkdir()
    for file in ("Dockerfile", ".dockerignore", "dog_breeds/console.py", *copied()):
        if not file.endswith(".tflite"):
            shutil.copy(ROOT / file, context / file)
    shutil.copy(request.getfixturevalue("colour_model"), context / "colours.tflite")
    (context / "secret.txt").write_text("not for the image")
    arguments = ["--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", "MODEL=colours.tflite", "-t", IMAGE, context]
    build = subprocess.run(
        ["buildah", "build", "--isolation", "chroot", "--network", "host", *arguments], capture_output=True, text=True
    )
    assert build.returncode == 0, build.stderr
    container = subprocess.run(["buildah", "from", IMAGE], check=True, capture_output=True, text=True).stdout.strip()
    yield container
    subprocess.run(["buildah", "rm", container], check=True, capture_output=True)
    subprocess.run(["buildah", "rmi", IMAGE], check=True, capture_output=True)


def in_image(container: str, *command: str) -> str:
    """What a command in the image prints."""
    command = ["buildah", "run", "--isolation", "chroot", container, "--", *command]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_image_answers(image, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(saved(picture(500, 375), format="JPEG"))
    command = ["unshare", "--net", "bash", "-c", ASK, "bash", image, tmp_path / "printed", sys.executable]
    command.append(tmp_path / "photo.jpg")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == f"{BREED}              100.0%  {'#' * 40}"
    logs = [line for line in (tmp_path / "printed").read_text().splitlines() if line.startswith("{")]
    assert [json.loads(line)["outcome"] for line in logs] == ["ok"]


def test_image_holds_only_what_serves(image):
    files = in_image(image, "ls", "-a", "/var/task").split()
    assert {"lambda_function.py", "top_10_dog_breeds.tflite", "requests", "AntiSSRF", "PIL", "numpy"} <= set(files)
    assert not {"secret.txt", "Dockerfile", ".git", "tests", "keras", "tensorflow", "training.py"} & set(files)
    modules = set(in_image(image, "ls", "/var/task/dog_breeds").split())
    assert modules == {"__pycache__", *(Path(file).name for file in copied() if file.startswith("dog_breeds/"))}
    for compiled in ("lambda_function", "dog_breeds/pixels", "requests/api"):
        folder, _, name = f"/var/task/{compiled}".rpartition("/")
        in_image(image, "sh", "-c", f"ls {folder}/__pycache__/{name}.*.pyc")
    code = "import os, sys; sys.path.insert(0, os.getcwd()); import urllib3; print(urllib3.__file__)"
    place = in_image(image, "python", "-c", code)
    assert place.startswith("/var/task/"), "and not the older one that AWS's own packages bring"
