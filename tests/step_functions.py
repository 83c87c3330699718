"""AWS's Step Functions and S3 on this machine: moto, whose interpreter of state machines comes from
LocalStack, in a process of its own.

    python tests/step_functions.py PORT FRONT      # listens on PORT; asks S3 and Lambda on FRONT

moto 5.2.5 lacks some of what a batch uses. `as_interpreted` takes it out of a definition, and this
process puts these in its place:

- JSONata: jsonata-python evaluates the expressions.
- ResultWriter: `ResultFiles` writes the files in the form that AWS documents.
- Waits before another try take a thousandth of their time.
"""

import copy
import functools
import importlib
import json
import sys
import time
import types
import uuid
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
WAIT = 0.001  # of the time that a definition says


# --- The definition -------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's template; !Ref and the like become their bare arguments."""


def _bare(loader: yaml.Loader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    construct = "sequence" if isinstance(node, yaml.SequenceNode) else "mapping"
    return getattr(loader, f"construct_{construct}")(node, deep=True)


_Loader.add_multi_constructor("!", _bare)


def template() -> dict:
    """Return template.yaml."""
    return yaml.load((ROOT / "template.yaml").read_text(), _Loader)


def definition() -> dict:
    """Return the definition of the batch, with the variables of the template in it."""
    return template()["Resources"]["Batch"]["Properties"]["Definition"]


def as_interpreted(definition: dict, **variables: str) -> dict:
    """Return a definition as moto takes it: without what its interpreter lacks."""
    changed = copy.deepcopy(definition)
    each_group = changed["States"]["EachGroup"]
    del each_group["ResultWriter"]  # not under JSONata, and without files
    del each_group["ToleratedFailurePercentage"]  # it is read, but never applied
    del each_group["ItemProcessor"]["ProcessorConfig"]["ExecutionType"]  # it knows no EXPRESS
    text = json.dumps(changed)
    for name, value in variables.items():
        text = text.replace("${" + name + "}", value)
    assert "${" not in text
    return json.loads(text)


# --- The process ----------------------------------------------------------------------------------


class ResultFiles:
    """What ResultWriter writes with Transformation FLATTEN and OutputType JSONL: a line for each
    element of the outputs of children that succeeded, the whole record of each other child, and
    manifest.json, which names the files.
    """

    def __init__(self) -> None:
        self.records = {"SUCCEEDED": [], "FAILED": [], "PENDING": []}

    def add(self, group: Any, output: Any, error: dict | None) -> None:
        """Take what became of a child."""
        if error is None:
            self.records["SUCCEEDED"] += output
        else:
            about = {"Input": json.dumps(group), "InputDetails": {"Included": True}}
            about |= {"Status": "FAILED", "Name": str(uuid.uuid4())}
            self.records["FAILED"].append(
                about | {"Error": error["error"], "Cause": error.get("cause")}
            )

    def write(self, s3: Any, bucket: str, prefix: str, run: str) -> None:
        """Write the files, the manifest last."""
        place, files = f"{prefix}/{run}", {}
        for status, records in self.records.items():
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            files[status] = []
            if records:
                key = f"{place}/{status}_0.jsonl"
                s3.put_object(Bucket=bucket, Key=key, Body=lines.encode())
                files[status] = [{"Key": key, "Size": len(lines.encode())}]
        manifest = {"DestinationBucket": bucket, "MapRunArn": run, "ResultFiles": files}
        s3.put_object(Bucket=bucket, Key=f"{place}/manifest.json", Body=json.dumps(manifest))


def evaluate(expression: str) -> Any:
    """Return the value of a JSONata expression."""
    import jsonata

    return jsonata.Jsonata(expression).evaluate(None)


def serve(port: int, front: int) -> None:
    """Serve S3 and Step Functions until this process is ended."""
    import boto3
    from moto.core.config import default_user_config
    from moto.server import ThreadedMotoServer
    from moto.stepfunctions.parser.asl.eval.program_state import ProgramError, ProgramStopped

    def part(name: str) -> types.ModuleType:
        return importlib.import_module(f"moto.stepfunctions.parser.asl.{name}")

    maps = "component.state.exec.state_map.iteration"
    worker = part(f"{maps}.itemprocessor.distributed_item_processor_worker")
    component = part(f"{maps}.distributed_iteration_component").DistributedIterationComponent
    retrier, expressions = part("component.common.retry.retrier_decl"), part("jsonata.jsonata")

    default_user_config["stepfunctions"]["execute_state_machine"] = True
    expressions._eval_jsonata = evaluate
    retrier.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(WAIT * seconds))
    client = functools.partial(boto3.client, endpoint_url=f"http://127.0.0.1:{front}")
    boto3.client = lambda *words, endpoint_url=None, **options: client(*words, **options)
    runs: dict[str, ResultFiles] = {}
    run_child = worker.DistributedItemProcessorWorker._eval_job
    run_map = component._eval_body

    def run_child_and_keep(self: Any, env: Any, job: Any) -> None:
        run_child(self, env, job)
        state, run = env.program_state(), self._map_run_record.map_run_arn
        if not isinstance(state, ProgramStopped):
            error = state.error if isinstance(state, ProgramError) else None
            runs[run].add(job.job_input, job.job_output, error)

    worker.DistributedItemProcessorWorker._eval_job = run_child_and_keep

    def run_map_and_write(self: Any, env: Any) -> None:
        run = env.stack[-1].map_run_record.map_run_arn
        given = env.states.get_input()
        runs[run] = ResultFiles()
        try:
            run_map(self, env)
        finally:
            s3 = client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
            runs[run].write(s3, "bucket", given["results"], run.rpartition(":")[2])

    component._eval_body = run_map_and_write
    ThreadedMotoServer("127.0.0.1", port, verbose=False).start()
    print("ready", flush=True)
    sys.stdin.read()  # ends with the tests


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
