"""The handler for a test that serves images itself: addresses of this machine count as public, at
one port.
"""

import os

from handler_process import with_local_server

from lambda_function import lambda_handler  # noqa: F401  what the runtime client looks for

with_local_server(int(os.environ["LOCAL_PORT"]), 5)
