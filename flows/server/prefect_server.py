"""Prefect's server with the one of its two UIs that sends nothing to other machines.

The other asks sr-client-cfg.amplitude.com for its configuration whenever it is opened, even with analytics off.

    python -m slimline.flows.server.prefect_server --host 127.0.0.1 --port 4200
"""

from __future__ import annotations

import sys

import prefect
from prefect.cli import app


def main() -> None:
    """Serve until a signal; the arguments are those of `prefect server start`."""
    prefect.__ui_v2_static_path__ = prefect.__ui_static_path__.with_name("none")
    sys.argv[1:1] = ["server", "start"]
    app()


if __name__ == "__main__":
    main()
