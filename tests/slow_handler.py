"""The handler with a model that takes SECONDS for an inference, each of which it prints."""

import time

import lambda_function
from lambda_function import lambda_handler  # noqa: F401

SECONDS = 0.55
fast = lambda_function.run_model


def slow(pixels):
    print("inference", flush=True)
    time.sleep(SECONDS)
    return fast(pixels)


lambda_function.run_model = slow
