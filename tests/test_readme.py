"""The commands of README.md, CONTRIBUTING.md and the heads of scripts: what can run here runs, the
rest is checked.
"""

import ast
import functools
import json
import re
import shlex
from pathlib import Path

import botocore.session
import pytest
from botocore.validate import validate_parameters
from conftest import ROOT, make, run
from handler_fixtures import local_gateway
from markdown_it import MarkdownIt
from odd_images import BREED, JPEG

VARIABLES = {
    "ACCOUNT": "123456789012",
    "REGION": "eu-west-1",
    "REGISTRY": "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
}
PAGES = [
    ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "RESULTS", "DEPLOY", "MODEL_CARD")
]
OWN_OPTIONS = {"get-login-password"}  # of the AWS CLI: no operation of the service


@functools.cache
def commands() -> list[list[str]]:
    """All commands, as words, of the fences that are shell and of what is indented in the
    docstrings of scripts.
    """
    texts = []
    for file in PAGES:
        tokens = MarkdownIt().parse(file.read_text())
        texts += [token.content for token in tokens if token.type == "fence" and token.info == "sh"]
    for file in (*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        texts.append(
            "\n".join(
                re.findall(
                    r"^    (\S.*)$", ast.get_docstring(ast.parse(file.read_text())) or "", re.M
                )
            )
        )
    texts.append("\n".join(re.findall(r"^#   (\S.*)$", (ROOT / "Dockerfile").read_text(), re.M)))
    found = []
    for line in "\n".join(texts).replace("\\\n", " ").splitlines():
        line = re.sub(r"\$(\w+)", lambda name: VARIABLES.get(name[1], name[0]), line)
        words = shlex.split(line, comments=True)
        while words:
            end = next(
                (index for index, word in enumerate(words) if word in ("&&", "|")), len(words)
            )
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"[A-Z_]+=.*|export", command[0]):
                command = command[1:]
            found += [command] if command else []
    return found


def named(*start: str) -> list[list[str]]:
    """The commands that start with these words."""
    return [command for command in commands() if command[: len(start)] == list(start)]


def options(script: Path) -> set[str]:
    """The options that a script takes, with those of test.py for test_cloud.py and those that
    benchmarks share.
    """
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    calls = [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    ]
    own = {word.value for call in calls for word in call.args if isinstance(word, ast.Constant)}
    if script.parent.name == "benchmarks" and script.name != "common.py":
        own |= options(ROOT / "benchmarks/common.py")
    return own | (options(ROOT / "test.py") if script.name == "test_cloud.py" else set())


def test_there_are_commands_of_every_kind():
    assert {"python", "make", "docker", "aws"} <= {command[0] for command in commands()}


def test_scripts_take_the_options_that_are_written_of():
    known = named("python")
    assert len(known) > 30
    for command in known:
        if command[1] == "-m":
            continue
        script = ROOT / command[1]
        assert script.is_file(), command
        used = {word for word in command[2:] if word.startswith("--")}
        assert used <= options(script), command


@pytest.mark.parametrize("command", named("make"), ids=" ".join)
def test_make_knows_its_targets(command):
    done = make("--dry-run", *command[1:], "ENGINE=docker")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", named("aws"), ids=lambda command: " ".join(command[1:3]))
def test_aws_knows_its_parameters(command):
    service, operation, *words = command[1:]
    if service == "s3":  # commands of the AWS CLI alone: source and target
        assert operation == "cp" and len(words) == 2 and "s3://" in "".join(words)
        return
    service = "s3" if service == "s3api" else service
    if operation in OWN_OPTIONS:
        assert words == ["--region", VARIABLES["REGION"]]
        return
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model("".join(map(str.capitalize, operation.split("-")))).input_shape
    members = {name.lower(): (name, member) for name, member in shape.members.items()}
    parameters = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option == "--region":
            continue
        name, member = members[option.removeprefix("--").replace("-", "")]
        assert value in (getattr(member, "enum", None) or [value])
        if member.type_name == "structure":
            value = json.loads(value) if value[0] == "{" else dict([value.split("=", 1)])
        parameters[name] = int(value) if member.type_name == "integer" else value
    validate_parameters(parameters, shape)


def test_docker_builds_tags_and_pushes_one_image():
    (build, *others) = named("docker", "buildx", "build")
    assert all(other == build for other in others)
    assert all(" ".join(build) in (ROOT / file).read_text() for file in ("DEPLOY.md", "Dockerfile"))
    assert build[3:] == ["--platform", "linux/amd64", "--provenance=false", "-t", "dog-breeds", "."]
    for command in named("docker", "run"):
        assert command[2:] == ["-it", "--rm", "-p", "8080:8080", "dog-breeds"]
    place = f"{VARIABLES['REGISTRY']}/dog-breeds:v1"
    assert all(command[2:] == ["dog-breeds", place] for command in named("docker", "tag"))
    assert all(command[2:] == [place] for command in named("docker", "push"))


def test_clients_answer_as_written(stack, colour_model, photo, tmp_path):
    """Every way to call test.py and test_cloud.py with a file or a folder, with a photo of this
    name beside.
    """
    (tmp_path / "DIR").mkdir()
    (tmp_path / "DIR/photo.jpg").write_bytes(JPEG)
    seen = set()
    with local_gateway(stack.endpoint) as address:
        env = {"DOG_BREEDS_ENDPOINT": f"{address}/predict"}
        env |= {
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "eu-west-1",
        }
        for command in [*named("python", "test.py"), *named("python", "test_cloud.py")]:
            words = [
                str(colour_model) if word.endswith(".tflite") else word for word in command[1:]
            ]
            if not {"photo.jpg", "DIR"} & set(words) or str(words) in seen or "--explain" in words:
                continue
            seen.add(str(words))
            if "--folder" in words:
                (tmp_path / "OUT.csv").unlink(missing_ok=True)  # each command writes a new table
                words += ["--model", str(colour_model)]
            elif words[0] == "test.py" and "--model" not in words:
                words += ["--endpoint", stack.endpoint]
            words = [word if word != "400" else "20" for word in words]
            done = run(*words, cwd=tmp_path, **env)
            assert done.returncode == 0, (command, done.stderr)
            assert BREED in done.stdout or "ok = 20" in done.stdout, command
    assert len(seen) >= 5


def test_json_of_the_readme_is_json():
    fences = [
        token
        for token in MarkdownIt().parse((ROOT / "README.md").read_text())
        if token.type == "fence"
    ]
    assert all(json.loads(token.content) for token in fences if token.info == "json")
