"""An arm64 Lambda on x86-64: an emulated Neoverse N1 (Graviton2) in the sandbox that AWS gives.

qemu-user runs a root folder with Debian's Python and the wheels that the image installs. The
sandbox has the /proc/cpuinfo of a Graviton2, and of /sys only what the image itself holds.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from handler_process import ROOT

QEMU = "qemu-aarch64-static"
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp ssbs"
)
CPU_INFO = f"""processor	: {{number}}
BogoMIPS	: 243.75
Features	: {FEATURES}
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1

"""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# What the handler's modules give of photos, at another size unless it is 0: what the start logs,
# and for each photo the pixels and the features in hexadecimal, and all other outputs.
SCORES = """
import json, pathlib, sys, lambda_function
from dog_breeds.serving.cpus import start_log
from dog_breeds.serving.safe_images import read_image
model, size = lambda_function.MODEL, int(sys.argv[1]) or lambda_function.MODEL.size
started = start_log(model.interpreter)
if size != model.size:
    model.interpreter.resize_tensor_input(model.tensors[0], (1, size, size, 3))
    model.interpreter.allocate_tensors()
outputs = {output["name"]: output["index"] for output in model.interpreter.get_output_details()}
rows = []
for path in sys.argv[2:]:
    pixels = read_image(pathlib.Path(path).read_bytes(), size, model.share, {}, float("inf"))
    probabilities, *scores = lambda_function.run_model(pixels)
    features = model.interpreter.get_tensor(outputs["features"])
    scores = [*probabilities.tolist(), *scores]
    rows.append([pixels.tobytes().hex(), features.tobytes().hex(), scores])
print(json.dumps([started, rows]))
"""
# A mount namespace, which ends with the process: nothing stays mounted.
START = """
set -e
root=$1 cpuinfo=$2; shift 2
mount -t proc proc "$root/proc"
mount --bind "$cpuinfo" "$root/proc/cpuinfo"
for device in null zero random urandom; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec env -i PATH=$PATH LANG=C.UTF-8 chroot "$root" /qemu -cpu neoverse-n1 "$@"
"""


def why_not() -> str:
    """Return why arm64 cannot be emulated here; "" if it can."""
    for program in (QEMU, "apt-get", "dpkg", "unshare", "chroot"):
        if not shutil.which(program):
            package = "; apt-get install qemu-user-static" if program == QEMU else ""
            return f"no {program} here{package}"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "this user may not mount; root may"
    return ""


def image_files() -> dict[str, str]:
    """Return the files that the Dockerfile's stage `cpus` puts into /sys, by path."""
    text = (ROOT / "Dockerfile").read_text()
    ((content, first, second),) = re.findall(r"^RUN echo (\S+) >(\S+) && cp \2 (\S+) ", text, re.M)
    ((files, place),) = re.findall(r"^COPY --from=cpus (.+) (/sys/\S+/)$", text, re.M)
    assert files.split() == [first, second]
    return {place + file.strip("/"): f"{content}\n" for file in files.split()}


def make_root(folder: Path) -> Path:
    """Return a root folder with Python and the packages of the image, made below `folder`.

    Takes 20 s and needs Debian's packages and PyPI. Raises CalledProcessError where one fails.
    """
    root, apt = folder / "root", folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    options = [
        "APT::Architecture=arm64",
        "APT::Architectures=arm64",
        f"Dir::State::Lists={apt}/lists",
        f"Dir::State::status={apt}/status",
        f"Dir::Cache={apt}/cache",
        "APT::Sandbox::User=root",
        "APT::Install-Recommends=false",
    ]
    command = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    _run(*command, "update")
    _run(*command, "--yes", "--download-only", "install", "python3", "libstdc++6")
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _run("dpkg", "-x", package, root)
    (python,) = (root / "usr/bin").glob("python3.??")
    for name in ("proc", "sys", "dev", "tmp", "var/task"):
        (root / name).mkdir(parents=True, exist_ok=True)
    words = ["-qq", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    words += ["--python-version", python.name.removeprefix("python"), "--implementation", "cp"]
    words += ["--require-hashes", "-r", ROOT / "requirements-lambda.lock"]
    _run(sys.executable, "-m", "pip", "install", *words, "--target", root / "var/task")
    shutil.copy(shutil.which(QEMU), root / "qemu")
    shutil.rmtree(apt)
    return root


def run_arm64(
    root: Path, model: Path, files: dict[str, str], code: str, *arguments: object
) -> subprocess.CompletedProcess:
    """Run Python code beside the handler's modules and a model file, as Lambda on arm64 would.

    `files`: the content of all files below /sys, by path. The folder /tmp is root's own.
    """
    task = root / "var/task"
    shutil.copytree(ROOT / "dog_breeds/serving", task / "dog_breeds/serving", dirs_exist_ok=True)
    shutil.copy(ROOT / "lambda_function.py", task)
    shutil.copy(model, task / "model.tflite")
    (root.parent / "cpuinfo").write_text("".join(CPU_INFO.format(number=n) for n in range(2)))
    shutil.rmtree(root / "sys")
    (root / "sys").mkdir()
    for path, content in files.items():
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / path[1:]).write_text(content)
    command = ["unshare", "--mount", "bash", "-c", START, "bash", root, root.parent / "cpuinfo"]
    command += ["/usr/bin/python3", "-c", f"import sys; sys.path.insert(0, '/var/task')\n{code}"]
    return subprocess.run(
        list(map(str, [*command, *arguments])), capture_output=True, text=True, timeout=3600
    )


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
