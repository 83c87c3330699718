"""The image: what goes into it, and that it answers when it is built and run."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
from conftest import ROOT, make
from container import BASE, in_image, in_lambda
from emulator import free_ports, wait_for
from handler_process import run_python
from odd_images import BREED

DOCKERFILE = (ROOT / "Dockerfile").read_text()
TAG = f"dog-breeds-test-{os.getpid()}"  # another suite may run on this machine
IMAGE = f"localhost/{TAG}:latest"


def copied() -> list[str]:
    """Return the files and folders that the Dockerfile copies when it is built by default."""
    lines = re.findall(r"^COPY (?!--from=)(.+) \S+$", DOCKERFILE.replace("\\\n", " "), re.M)
    (model,) = re.findall(r"^ARG MODEL=(\S+)", DOCKERFILE, re.M)
    return " ".join(lines).replace("${MODEL}", model).split()


def test_context_holds_what_is_copied_and_no_more():
    text = (ROOT / ".dockerignore").read_text()
    first, *rules = [line for line in text.splitlines() if not line.startswith("#")]
    hidden = [".venv*", "data", "site", "**/__pycache__"]
    assert first == "*" and rules[-4:] == hidden
    expected = ["!**/*.tflite" if file.endswith(".tflite") else f"!{file}" for file in copied()]
    assert sorted(rules[:-4]) == sorted(expected)


def test_code_that_is_copied_is_what_the_handler_imports(colour_model):
    """A fresh process loads the whole serving wing, nothing else of this project, and no library of
    training.
    """
    program = "import sys, lambda_function; print(*sys.modules)"
    loaded = set(run_python(program, MODEL_FILE=str(colour_model)).stdout.split())
    assert not {"tensorflow", "keras", "matplotlib", "requests"} & loaded
    ours = {"dog_breeds", *(file.stem for file in ROOT.glob("*.py"))}
    wing = {
        f"dog_breeds.serving.{file.stem}" for file in (ROOT / "dog_breeds/serving").glob("[!_]*.py")
    }
    expected = {"lambda_function", "dog_breeds", "dog_breeds.serving", *wing}
    assert {name for name in loaded if name.split(".")[0] in ours} == expected
    assert {"lambda_function.py", "dog_breeds/serving", "dog_breeds/__init__.py"} < set(copied())


def test_the_command_of_the_image_is_the_handler():
    (command,) = re.findall(r"^CMD (.+)", DOCKERFILE, re.M)
    module, function = json.loads(command)[0].split(".")
    assert f"def {function}(" in (ROOT / f"{module}.py").read_text()


def test_image_has_the_versions_that_are_tested_each_with_its_hashes():
    pins = [
        line
        for line in (ROOT / "requirements-lambda.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    tested = (ROOT / "requirements.txt").read_text()
    entries = re.findall(
        r"^(\S+==\S+) (.+(?:\n .+)*)", (ROOT / "requirements-lambda.lock").read_text(), re.M
    )
    locked = {pin: re.findall(r"--hash=sha256:[0-9a-f]{64}", hashes) for pin, hashes in entries}
    assert len(locked) > len(pins) and all(locked.values())
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) and pin in tested and pin in locked


@pytest.fixture(scope="module")
def image(request, tmp_path_factory):
    """The image, built from a base image like AWS's, with the tiny model in place of the real
    one."""
    script = os.environ.get("LAMBDA_BASE_BUILD")
    if not script:
        pytest.skip(
            "set LAMBDA_BASE_BUILD to a script that builds a base image like AWS's with buildah"
        )
    subprocess.run([script, BASE], check=True, capture_output=True)
    context = tmp_path_factory.mktemp("context")
    (context / "dog_breeds").mkdir()
    for file in ("Dockerfile", ".dockerignore", "dog_breeds/console.py", *copied()):
        if (ROOT / file).is_dir():
            shutil.copytree(ROOT / file, context / file)
        elif not file.endswith(".tflite"):
            shutil.copy(ROOT / file, context / file)
    (context / "models").mkdir()
    shutil.copy(request.getfixturevalue("colour_model"), context / "models" / "colours.tflite")
    for file in (
        "models/colours.tflite",
        "lambda_function.py",
        "dog_breeds/serving/pixels.py",
        "dog_breeds/serving/page.html",
    ):
        (context / file).chmod(0o600)  # as with a strict umask
    (context / "secret.txt").write_text("not for the image")
    flags = (
        f"--isolation chroot --network host --build-arg BASE_IMAGE={BASE} --build-arg "
        "MODEL=models/colours.tflite"
    )
    words = [
        "-f",
        str(ROOT / "Makefile"),
        "-C",
        str(context),
        "image",
        "ENGINE=buildah",
        f"TAG={TAG}",
    ]
    build = make(*words, f"BUILD_FLAGS={flags}")
    assert build.returncode == 0, build.stderr
    container = subprocess.run(
        ["buildah", "from", IMAGE], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield container
    subprocess.run(["buildah", "rm", container], check=True, capture_output=True)
    subprocess.run(["buildah", "rmi", IMAGE], check=True, capture_output=True)


def test_image_answers_read_only_as_another_user_with_a_small_tmp(image, photo, tmp_path):
    done = in_lambda(image, tmp_path / "printed", [sys.executable, "test.py", "--file", photo])
    printed = (tmp_path / "printed").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + printed
    assert done.stdout.splitlines()[0] == f"{BREED}              100.0%  {'#' * 40}"
    start, request = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    assert start["accelerated"] is True and request["outcome"] == "ok"


def test_the_place_is_as_narrow_as_lambda(image, tmp_path):
    code = """
import os, sys
refused = []
for folder in ("/var/task", "/var/task/dog_breeds", "/var/runtime", "/"):
    try:
        open(folder + "/new", "w")
    except OSError as error:
        refused.append(error.strerror)
print(refused, os.getuid(), os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize >> 20)
open("/tmp/new", "w").write("new")
for name in ("possible", "present"):
    print(open("/sys/devices/system/cpu/" + name).read(), end="")
"""
    done = in_lambda(image, tmp_path / "printed", [], "python3", "-c", code)
    assert done.returncode == 0, (tmp_path / "printed").read_text()
    assert (
        tmp_path / "printed"
    ).read_text() == f"{['Read-only file system'] * 4} 993 512\n0-5\n0-5\n"


def test_push_sends_one_image_and_no_index(image, tmp_path):
    """make push, to a registry on this machine; Lambda takes the manifest of an image and no
    other."""
    if not shutil.which("docker-registry"):
        pytest.skip("no docker-registry here, a package of Debian's")
    [port] = free_ports()
    place = f"127.0.0.1:{port}"
    storage = f"storage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}"
    (tmp_path / "config.yml").write_text(f"version: 0.1\n{storage}\nhttp: {{addr: {place}}}\n")
    command = ["docker-registry", "serve", tmp_path / "config.yml"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as registry:
        try:
            wait_for(port, registry)
            words = [
                f"TAG={TAG}",
                "PUSH_FLAGS=--quiet --tls-verify=false",
                f"REMOTE_URI={place}/dog-breeds:v1",
            ]
            done = make("push", "ENGINE=buildah", *words)
            assert done.returncode == 0, done.stderr
            kinds = [
                "docker.distribution.manifest.v2",
                "oci.image.index.v1",
                "oci.image.manifest.v1",
            ]
            headers = {"Accept": ", ".join(f"application/vnd.{kind}+json" for kind in kinds)}
            request = urllib.request.Request(
                f"http://{place}/v2/dog-breeds/manifests/v1", headers=headers
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                manifest = json.load(response)
        finally:
            registry.kill()
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert sum(layer["size"] for layer in manifest["layers"]) < 250_000_000
    subprocess.run(["buildah", "rmi", f"{place}/dog-breeds:v1"], check=True, capture_output=True)


def test_image_holds_only_what_serves(image):
    files = in_image(image, "ls", "-a", "/var/task").split()
    assert not {"libLiteRt.so", "tools", "vendors"} & set(
        in_image(image, "ls", "/var/task/ai_edge_litert").split()
    )
    assert {"lambda_function.py", "model.tflite", "requests", "AntiSSRF", "PIL", "numpy"} <= set(
        files
    )
    ours = {"secret.txt", "Dockerfile", ".git", "tests", "training.py", "requirements-lambda.lock"}
    assert not (ours | {"keras", "tensorflow"}) & set(files)
    modules = set(in_image(image, "ls", "/var/task/dog_breeds").split())
    assert modules == {"__pycache__", "__init__.py", "serving"}
    serving = set(in_image(image, "ls", "/var/task/dog_breeds/serving").split())
    here = {path.name for path in (ROOT / "dog_breeds/serving").iterdir()}
    assert serving - {"__pycache__"} == here - {"__pycache__"}
    for compiled in ("lambda_function", "dog_breeds/serving/pixels", "requests/api"):
        folder, _, name = f"/var/task/{compiled}".rpartition("/")
        in_image(image, "sh", "-c", f"ls {folder}/__pycache__/{name}.*.pyc")
    code = (
        "import os, sys; sys.path.insert(0, os.getcwd()); import urllib3; print(urllib3.__file__)"
    )
    place = in_image(image, "python", "-c", code)
    assert place.startswith("/var/task/"), "and not the older one that AWS's own packages bring"
