"""Ask the deployed service (API Gateway or function URL) which breed a picture shows.

    export DOG_BREEDS_ENDPOINT=https://<id>.execute-api.<region>.amazonaws.com/<stage>/predict
    python test_cloud.py                      # a Great Pyrenees on the web
    python test_cloud.py --file photo.jpg

Prints the breeds, best first, as test.py does.
"""

import argparse
import os
import sys
from pathlib import Path

from test import URL, ask, picture_event, show


def main() -> None:
    """Ask, and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--url", help=f"picture on the web (default: {URL})")
    picture.add_argument("--file", type=Path, help="picture on this machine")
    parser.add_argument(
        "--endpoint", default=os.environ.get("DOG_BREEDS_ENDPOINT"), help="default: $DOG_BREEDS_ENDPOINT"
    )
    args = parser.parse_args()
    try:
        if not args.endpoint:
            raise RuntimeError("no endpoint; give --endpoint or set DOG_BREEDS_ENDPOINT")
        event = picture_event(args.url, args.file)
        print(show(ask(args.endpoint, event, "check the address and that the function is deployed")))
    except (OSError, RuntimeError) as error:
        sys.exit(f"test_cloud.py: {error}")


if __name__ == "__main__":
    main()
