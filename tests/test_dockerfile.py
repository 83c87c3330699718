"""The image: what goes into it, and that it answers when it is built and run."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from odd_pictures import BREED, picture, saved

pytest_plugins = ["handler_fixtures"]
ROOT = Path(__file__).parent.parent
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
    sources = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.M)
    (model,) = re.findall(r"^ARG MODEL=(\S+)", DOCKERFILE, re.M)
    return [source.replace("${MODEL}", model) for source in sources]


def test_context_holds_what_is_copied_and_no_more():
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    taken = [rule.removeprefix("!") for rule in rules]
    for file in copied():
        assert any(fnmatch.fnmatch(file, rule) for rule in taken), file
    assert len(taken) == len(copied()) == 3


def test_commands_for_lambda_are_there():
    for part in (
        "--provenance=false",
        "--platform linux/amd64",
        "docker run",
        "get-login-password",
        "docker tag",
        "docker push",
    ):
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
    for file in ("Dockerfile", ".dockerignore", "requirements-lambda.txt", "lambda_function.py"):
        shutil.copy(ROOT / file, context)
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
    arguments = [image, tmp_path / "printed", sys.executable, tmp_path / "photo.jpg"]
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", ASK, "bash", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == f"{BREED}              100.0%  {'#' * 40}"
    logs = [line for line in (tmp_path / "printed").read_text().splitlines() if line.startswith("{")]
    assert [json.loads(line)["outcome"] for line in logs] == ["ok"]


def test_image_holds_only_what_serves(image):
    files = in_image(image, "ls", "-a", "/var/task").split()
    assert {"lambda_function.py", "top_10_dog_breeds.tflite", "requests", "AntiSSRF", "PIL", "numpy"} <= set(files)
    assert not {"secret.txt", "Dockerfile", ".git", "tests", "keras", "tensorflow", "training.py"} & set(files)
    in_image(
        image, "sh", "-c", "ls /var/task/__pycache__/lambda_function.*.pyc /var/task/requests/__pycache__/api.*.pyc"
    )
    place = in_image(
        image,
        "python",
        "-c",
        "import os, sys; sys.path.insert(0, os.getcwd()); import urllib3; print(urllib3.__file__)",
    )
    assert place.startswith("/var/task/"), "and not the older one that AWS's own packages bring"
