"""The handler in a process that ends at some keys, as one does that needs too much memory."""

import os

import lambda_function


def lambda_handler(event, context):
    key = event.get("key", "")
    if "ends always" in key:
        os._exit(1)
    if "ends once" in key:
        try:
            os.mkdir(os.path.join(os.environ["ENDED"], key.replace("/", "_")))
        except FileExistsError:
            pass  # as it has
        else:
            os._exit(1)
    return lambda_function.lambda_handler(event, context)
