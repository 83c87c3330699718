"""Ask the service in the cloud which breed a picture shows: behind an API Gateway, a function URL or a load balancer.

    export DOG_BREEDS_ENDPOINT=https://ID.execute-api.REGION.amazonaws.com/STAGE/predict    # or --endpoint URL
    python test_cloud.py                      # about a Great Pyrenees on the web
    python test_cloud.py --file photo.jpg

Prints the breeds, best first. The first answer after a pause takes some seconds: Lambda starts a container.
"""

import os
import sys

from test import arguments, ask, event_for, show

HINT = "check the endpoint and the logs of the function"


def main() -> None:
    """Ask, and print the answer."""
    args = arguments(__doc__, os.environ.get("DOG_BREEDS_ENDPOINT")).parse_args()
    try:
        if not args.endpoint:
            raise ValueError("where is the service? Give --endpoint URL, or set DOG_BREEDS_ENDPOINT")
        print(show(ask(args.endpoint, event_for(args.url, args.file), HINT)))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"test_cloud.py: {error}")


if __name__ == "__main__":
    main()
