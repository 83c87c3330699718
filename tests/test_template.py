"""template.yaml fits the handler, which AWS's linters do not look at; and what linters say of it
and of Dockerfile.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from handler_process import handler_process, with_bucket
from odd_images import TEXT, drawn_image, saved

from dog_breeds.serving.limits import PassingFault

LINT = ROOT / ".venv/lint/bin"
TEMPLATE = ROOT / "template.yaml"


def tool(name: str) -> str:
    """Where a linter is; skips the test if it is nowhere."""
    path = LINT / name if (LINT / name).exists() else shutil.which(name)
    return str(
        path
        or pytest.skip(f"no {name} here; `make lint` fetches the others than sam, AWS's SAM CLI")
    )


@pytest.fixture(scope="module")
def resources() -> dict:
    """The template's resources by name."""
    python = Path(tool("cfn-lint")).resolve().parent / "python"
    code = (
        "import cfnlint.decode, json, sys; print(json.dumps(cfnlint.decode.decode(sys.argv[1])[0]))"
    )
    python = LINT / "python" if (LINT / "python").exists() else python
    done = subprocess.run(
        [python, "-c", code, TEMPLATE], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["Resources"]


@pytest.mark.parametrize(
    "command",
    [
        "cfn-lint template.yaml",
        "sam validate --lint --template template.yaml",
        "hadolint Dockerfile",
    ],
)
def test_linters_find_nothing(command):
    name, *arguments = command.split()
    env = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "eu-west-1"}
    done = subprocess.run(
        [tool(name), *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alarm_tells_of_a_batch_that_fails(resources):
    alarm = resources["BatchAlarm"]["Properties"]
    assert alarm["Dimensions"] == [{"Name": "StateMachineArn", "Value": {"Ref": "Batch"}}]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/States", "ExecutionsFailed")


@pytest.fixture
def classify(resources) -> dict:
    """The state of the batch that asks the function."""
    states = resources["Batch"]["Properties"]["Definition"]["States"]
    for name in ("EachGroup", "EachPhoto"):
        states = states[name]["ItemProcessor"]["States"]
    return states["Classify"]


def test_cfn_lint_ignores_nothing_in_the_batch_but_an_expression_that_it_does_not_know(tmp_path):
    text = TEMPLATE.read_text()
    expression, ignored = '"{% ${Concurrency} %}"', "ignore_checks: [E3601]"
    assert text.count(expression) == 1 and text.count(ignored) == 1
    changed = text.replace(expression, "10").replace(ignored, "ignore_checks: []")
    (tmp_path / "template.yaml").write_text(changed)
    done = subprocess.run(
        [tool("cfn-lint"), tmp_path / "template.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_image_is_built_from_what_is_here(resources):
    metadata = resources["Classifier"]["Metadata"]
    assert (ROOT / metadata["DockerContext"] / metadata["Dockerfile"]).is_file()
    assert (ROOT / metadata["DockerContext"] / ".dockerignore").is_file()
    ((argument, value),) = metadata["DockerBuildArgs"].items()
    default = re.search(r"  Model: {Type: String, Default: (\S+),", TEMPLATE.read_text())[1]
    assert value == {"Ref": "Model"} and (ROOT / default).is_file()
    assert f"ARG {argument}={default}\n" in (ROOT / metadata["Dockerfile"]).read_text()


def test_the_world_may_ask_only_where_that_is_chosen(resources):
    open_to_all = {
        name
        for name, resource in resources.items()
        if resource["Properties"].get("Principal") == "*"
    }
    assert open_to_all == {"OpenUrl", "OpenInvoke"}
    assert all(resources[name]["Condition"] == "IsOpen" for name in open_to_all)
    assert re.search(r"FunctionUrlAuth: {Type: String, Default: AWS_IAM,", TEMPLATE.read_text())
    rule = (
        TEMPLATE.read_text()
        .partition("  OpenFunctionReadsNoBucket:")[2]
        .partition("Conditions:")[0]
    )
    assert "RuleCondition: !Equals [!Ref FunctionUrlAuth, NONE]" in rule
    for bucket in ("BatchBucket", "WatchBucket"):
        assert f'- Assert: !Equals [!Ref {bucket}, ""]' in rule


def test_the_role_may_do_no_more_than_it_must(resources):
    (policy,) = resources["Role"]["Properties"]["Policies"]
    logs, *conditional = policy["PolicyDocument"]["Statement"]
    assert logs["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert logs["Resource"] == {"Fn::GetAtt": ["Logs", "Arn"]}
    found = []
    for statement in conditional:
        condition, allowed, nothing = statement["Fn::If"]
        assert nothing == {"Ref": "AWS::NoValue"} and allowed["Effect"] == "Allow"
        found.append((condition, allowed["Action"], allowed["Resource"]))

    def arn(path: str) -> dict:
        return {"Fn::Sub": "arn:${AWS::Partition}:s3:::" + path}

    queue = {"Fn::GetAtt": ["WatchQueue", "Arn"]}
    messages = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    assert found == [
        ("HasBatch", "s3:GetObject", arn("${BatchBucket}/*")),
        ("HasBatch", "s3:ListBucket", arn("${BatchBucket}")),
        ("HasWatch", "s3:GetObject", arn("${WatchBucket}/*")),
        ("HasWatch", "s3:PutObject", arn("${WatchBucket}/results/*")),
        ("HasWatch", "s3:ListBucket", arn("${WatchBucket}")),
        ("HasWatch", messages, queue),
    ]


def test_a_watched_bucket_loses_no_photo(resources):
    """test_bucket_events.py sends events of the rule through the queue to the handler."""
    watch = {name: one for name, one in resources.items() if name.startswith("Watch")}
    assert all(one["Condition"] == "HasWatch" for one in watch.values())
    watch = {name: one["Properties"] for name, one in watch.items()}
    source, queue = watch["WatchSource"], watch["WatchQueue"]
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert queue["VisibilityTimeout"] == {"Fn::Sub": "${Timeout}0"}, "ten times the function's"
    dead = {"Fn::GetAtt": ["WatchDeadLetters", "Arn"]}
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == dead
    [target] = watch["WatchRule"]["Targets"]
    assert target["Arn"] == source["EventSourceArn"] == {"Fn::GetAtt": ["WatchQueue", "Arn"]}
    assert target["DeadLetterConfig"]["Arn"] == dead
    [dimension] = watch["WatchAlarm"]["Dimensions"]
    assert dimension["Value"] == {"Fn::GetAtt": ["WatchDeadLetters", "QueueName"]}
    [statement] = watch["WatchQueuePolicy"]["PolicyDocument"]["Statement"]
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == {
        "Fn::GetAtt": ["WatchRule", "Arn"]
    }


def test_the_function_gets_the_settings_that_it_reads(resources):
    properties = resources["Classifier"]["Properties"]
    variables = properties["Environment"]["Variables"]
    assert variables["CONTACT"] == {"Ref": "Contact"}
    assert variables["ALLOWED_ORIGIN"] == {"Ref": "AllowedOrigin"}
    assert variables["RESULTS_PREFIX"] == {"Fn::If": ["HasWatch", "results/", ""]}
    code = "".join(file.read_text() for file in (ROOT / "dog_breeds/serving").glob("*.py"))
    assert all(f'environ.get("{name}"' in code for name in variables)
    condition, cors, nothing = properties["FunctionUrlConfig"]["Cors"]["Fn::If"]
    assert condition == "HasOrigin" and nothing == {"Ref": "AWS::NoValue"}
    assert cors["AllowOrigins"] == {"Fn::Split": [",", {"Ref": "AllowedOrigin"}]}


def test_batch_tries_again_after_every_passing_fault(classify):
    passing = ("TooManyRequests", "Service", "SdkClient", "AWSLambda", "ClientExecutionTimeout")
    names = {f"Lambda.{name}Exception" for name in passing} | {PassingFault.__name__}
    assert set(classify["Retry"][0]["ErrorEquals"]) == names


def test_batch_asks_as_the_handler_answers_and_queries_name_what_it_logs(
    resources, classify, colour_model
):
    with handler_process(
        colour_model, with_bucket, {"photos/a.jpg": saved(drawn_image(), format="JPEG")}
    ) as ask:
        payload = json.dumps(classify["Arguments"]["Payload"])
        payload = payload.replace("${Bucket}", "bucket").replace(
            "{% $states.input.key %}", "photos/a.jpg"
        )
        answered = ask(json.loads(payload))
    assert len(answered.answer["prediction"]) == 1
    queries = [
        one["Properties"]["QueryString"]
        for one in resources.values()
        if "QueryString" in one["Properties"]
    ]
    queries = [query for query in queries if "@type" not in query and "accelerated" not in query]
    assert len(queries) == 2
    for query in queries:
        named = set(re.findall(r"(?:ispresent|avg|pct)\((\w+)", query)) | set(
            re.findall(r" by (\w+),", query)
        )
        assert named and named <= answered.log.keys()
    assert '$.outcome = "internal_error"' in resources["Faults"]["Properties"]["FilterPattern"]


def test_the_query_on_times_counts_each_photo_of_a_list_and_that_on_outcomes_each_request(
    resources, colour_model
):
    with handler_process(colour_model) as ask:
        *photos, request = ask({"images": [TEXT, TEXT]}).logs
    times = resources["PicturesQuery"]["Properties"]["QueryString"]
    named = set(re.findall(r"(?:ispresent|avg|pct)\((\w+)", times)) - {"download_ms"}
    assert len(photos) == 2 and all(named <= photo.keys() for photo in photos)
    assert "filter ispresent(inference_ms)" in times and "inference_ms" not in request
    outcomes = resources["OutcomesQuery"]["Properties"]["QueryString"]
    assert outcomes.startswith("filter ispresent(outcome)") and "outcome" in request
    assert not any("outcome" in photo for photo in photos)


def test_a_start_without_xnnpack_is_counted_and_alarms(resources):
    """test_cpus.py asserts that the handler logs these three fields, `accelerated` as a boolean."""
    assert resources["CpusQuery"]["Properties"]["QueryString"] == (
        "filter ispresent(accelerated) | stats count(*) as starts by cpu, int8, accelerated, "
        "bin(1d)"
    )
    counted = resources["NotAccelerated"]["Properties"]
    assert counted["FilterPattern"] == "{ $.accelerated IS FALSE }"
    alarm = resources["NotAcceleratedAlarm"]["Properties"]
    (metric,) = counted["MetricTransformations"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (
        metric["MetricNamespace"],
        metric["MetricName"],
    )
    assert alarm["Threshold"] == int(metric["MetricValue"]) == 1
