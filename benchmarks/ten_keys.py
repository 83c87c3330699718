"""Handle also {"bucket": B, "keys": [...]} for benchmarks/batch.py, with a list of rows as answer.

The rows are those of the state machine of template.yaml. A fault of one photo ends the whole call.
"""

from typing import Any

import ending_handler


def lambda_handler(event: dict, context: Any) -> Any:
    """Answer an event about one photo or about several photos."""
    if "keys" not in event:
        return ending_handler.lambda_handler(event, context)
    rows = []
    for key in event["keys"]:
        one = {"bucket": event["bucket"], "key": key, "top_k": 1}
        answer = ending_handler.lambda_handler(one, context)
        row = {"file": key, "model": answer.get("model", "")}
        if "error" in answer:
            row["error"] = answer["error"]["code"]
        else:
            ((row["breed"], row["probability"]),) = answer["prediction"].items()
            row["known"] = answer["known"]
            row["candidates"] = answer.get("candidates")
        rows.append(row)
    return rows
