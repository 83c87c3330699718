"""Containers without a container engine: buildah's, started in a place as narrow as the one that
Lambda gives.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from handler_process import ROOT

# Like AWS's base image; LAMBDA_BASE_BUILD names the script that builds it
BASE = "localhost/lambda-python:3.13"
# User and group as Lambda has them. A network of its own, so that port 8080 is free;
# read-only but for 512 MB in /tmp; a client, once the port is open.
START = """
printed=$1 root=$2; shift 2
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
cd /dev
for device in null zero random urandom; do
  touch "$root/dev/$device"
  mount --bind $device "$root/dev/$device"; done
cd - >/dev/null
mount -o remount,bind,ro "$root"
mount -t tmpfs -o size=512m,mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do environment+=("$1"); shift; done; shift
while [ "$1" != -- ]; do program+=("$1"); shift; done; shift
export STARTED=$EPOCHREALTIME
env -i "${environment[@]}" chroot --userspec=993:990 "$root" "${program[@]}" >"$printed" 2>&1 &
if [ $# = 0 ]; then wait $!; exit; fi
for _ in $(seq 200); do (: </dev/tcp/127.0.0.1/8080) 2>/dev/null && break; sleep 0.02; done
"$@"
"""


def in_image(container: str, *command: str) -> str:
    """Return what a command in a container prints."""
    command = ["buildah", "run", "--isolation", "chroot", container, "--", *command]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def in_lambda(
    container: str, printed: Path, client: Sequence, *program: str, prefix: Sequence = ()
) -> subprocess.CompletedProcess:
    """Start a container's entry point and command, or a program, as Lambda would; return what a
    client of it does.

    What the container prints goes to the file `printed`. Without a client it returns when the
    program has ended. The client finds in the variable STARTED the time at which the container was
    started. A prefix goes before all commands.
    """
    inspected = subprocess.run(
        ["buildah", "inspect", container], check=True, capture_output=True, text=True
    ).stdout
    config = json.loads(inspected)["OCIv1"]["config"]
    program = program or (*config["Entrypoint"], *config["Cmd"])
    program = ["sh", "-c", 'cd "$0" && exec "$@"', config["WorkingDir"], *program]
    root = subprocess.run(
        ["buildah", "mount", container], check=True, capture_output=True, text=True
    ).stdout.strip()
    command = [
        *prefix,
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "bash",
        "-c",
        START,
        "bash",
    ]
    command += [printed, root, *config["Env"], "--", *program, "--", *client]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
