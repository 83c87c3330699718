#!/usr/bin/env bash
# One would expect: a distributed map of Step Functions that tolerates no failed child fails when all its children fail
# (AWS documents ToleratedFailurePercentage 0 as the default, and the error States.ExceedToleratedFailureThreshold). An
# expression in JSONata is evaluated, or refused.
# What happens: in moto 5.2.5, whose interpreter runs state machines, the map SUCCEEDS with a null in place of each answer.
# Two executions that are started without a name have the same name, and the second is refused. JSONata is parsed, but the
# evaluator is never set, and every expression ends with 'NoneType' object is not callable.
# Why it matters: a batch that asks a classifier about a bucket of photos is tested there, since AWS cannot run on a desk. A
# test that only looks at the status of the execution passes though no photo has an answer. Count the failed children, or
# the answers. For JSONata, set moto.stepfunctions.parser.asl.jsonata.jsonata._eval_jsonata to an evaluator.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'moto[stepfunctions]==5.2.5' boto3==1.44.8 2>/dev/null
AWS_ACCESS_KEY_ID=AKID AWS_SECRET_ACCESS_KEY=secret "$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON'
import importlib.metadata
import json
import sys
import time

import boto3
from botocore.exceptions import ClientError
from moto import mock_aws

print("moto", importlib.metadata.version("moto"))
child = {"StartAt": "Stop", "States": {"Stop": {"Type": "Fail", "Error": "NoAnswer"}}}
child["ProcessorConfig"] = {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
photos = {"StartAt": "Photos", "States": {"Photos": {"Type": "Map", "ItemProcessor": child, "End": True}}}
sum_of = {"Type": "Pass", "Output": "{% 1 + 1 %}", "End": True}
jsonata = {"QueryLanguage": "JSONata", "StartAt": "Sum", "States": {"Sum": sum_of}}


def run(client, name, definition, given):
    """Start an execution without a name, and return how it ends; also what a second start says."""
    role = "arn:aws:iam::123456789012:role/batch"
    arn = client.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)["stateMachineArn"]
    execution = client.start_execution(stateMachineArn=arn, input=json.dumps(given))["executionArn"]
    while (ended := client.describe_execution(executionArn=execution))["status"] == "RUNNING":
        time.sleep(0.1)
    try:
        client.start_execution(stateMachineArn=arn, input=json.dumps(given))
    except ClientError as error:
        return ended, error.response["Error"]["Code"]
    return ended, None


with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
    client = boto3.client("stepfunctions", "us-east-1")
    failed, second = run(client, "photos", photos, ["a.jpg", "b.jpg", "c.jpg"])
    evaluated, _ = run(client, "sum", jsonata, {})
print(f"three photos, all children failed: {failed['status']}, output {failed.get('output')}")
print(f"a second execution without a name: {second}")
print(f"{{% 1 + 1 %}}: {evaluated['status']}, {evaluated.get('cause') or evaluated.get('output')}")
same = failed["status"] == "SUCCEEDED" and json.loads(failed["output"]) == [None] * 3
same = same and second == "ExecutionAlreadyExists" and "not callable" in str(evaluated.get("cause"))
sys.exit(0 if same else "this has changed")
PYTHON
