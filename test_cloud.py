"""Ask the service in the cloud which breed a photo shows, or measure its speed.

Reads     a photo from the web or from a file. The service is behind a function URL, an API
          Gateway or a load balancer.
Writes    nothing.
Example

    export DOG_BREEDS_ENDPOINT=https://ID.lambda-url.REGION.on.aws/    # or --endpoint URL
    python test_cloud.py                              # asks about a Great Pyrenees on the web
    python test_cloud.py --file photo.jpg
    python test_cloud.py --file photo.jpg --sign      # if the endpoint accepts only signed requests
    python test_cloud.py --file photo.jpg --requests 400 --concurrency 8    # measures the speed

Time      The first answer after a pause takes several seconds, because Lambda starts a container.
Expect    Ten breeds, likeliest first. With --requests: response times and requests per second."""

import os
import sys

from dog_breeds.clients.endpoint import ask, measure_load, signer
from dog_breeds.console import one_line_errors
from test import common_parser, event_for, format_answer


def format_figures(figures: dict) -> str:
    """Return a line for each figure, with the unit that the last part of its name shows."""
    units = {"ms": " ms", "s": " 1/s"}  # of names such as p50_ms and requests_per_s
    return "\n".join(
        f"{name} = {format(value, 'd' if isinstance(value, int) else '.4g')}"
        + units.get(name.split("_")[-1], "")
        for name, value in figures.items()
    )


def main() -> None:
    """Parse the arguments, ask, and print the answer or the figures."""
    example = (
        "python test_cloud.py --endpoint https://ID.lambda-url.eu-west-1.on.aws/ --file photo.jpg"
    )
    endpoint = os.environ.get("DOG_BREEDS_ENDPOINT")
    parser = common_parser(__doc__, endpoint or "DOG_BREEDS_ENDPOINT", example)
    parser.set_defaults(endpoint=endpoint)
    parser.add_argument(
        "--sign",
        action="store_true",
        help="sign requests with the AWS credentials of this machine; needs botocore",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30,
        help="seconds to wait for an answer (default: %(default)s)",
    )
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="send the photo N times and print response times instead of the answer",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=1,
        metavar="N",
        help="send up to N of the --requests at the same time (default: %(default)s)",
    )
    args = parser.parse_args()
    with one_line_errors():
        if not args.endpoint:
            raise ValueError(
                "the address of the service is missing; use --endpoint URL, or set "
                "DOG_BREEDS_ENDPOINT"
            )
        if args.concurrency < 1 or (args.requests is not None and args.requests < 1):
            raise ValueError("--requests and --concurrency must be at least 1")
        auth = signer(args.endpoint) if args.sign else None
        request = (args.endpoint, event_for(args.url, args.file), args.timeout, auth)
        if args.requests is None:
            answer = ask(*request, lambda remark: print(remark, file=sys.stderr))
            print(format_answer(answer))
            return
        figures = measure_load(*request, args.requests, args.concurrency)
        print(format_figures(figures))
        if figures["failed"]:
            raise RuntimeError(f"{figures['failed']} of {args.requests} requests failed")


if __name__ == "__main__":
    main()
