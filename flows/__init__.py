"""What runs, in what order, where."""

import os

from slimline.storage.paths import home


def _prefer(name: str, value: str) -> None:
    os.environ.setdefault(name, value)


def _prefer_running_server() -> None:
    """What runs on a home goes to the server that `slimline serve` runs there."""
    if "PREFECT_API_URL" not in os.environ and (home() / "serve.json").exists():
        from slimline.flows.server.discovery import running_server  # an import that most commands need not wait for

        if server := running_server():
            os.environ["PREFECT_API_URL"] = server.api


# Prefect reads its settings when it is first imported, so its defaults for slimline stand here. State stays in one
# place, nothing is sent home, and what the user has set wins.
_prefer("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
_prefer("DO_NOT_TRACK", "1")
_prefer("HF_HUB_DISABLE_TELEMETRY", "1")
_prefer("ORT_DISABLE_TELEMETRY", "1")
_prefer("PREFECT_LOGGING_LEVEL", "WARNING")
_prefer("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(home() / "results"))
_prefer("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{home()}/prefect.db")
_prefer("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
_prefer("PREFECT_SERVER_DATABASE_TIMEOUT", "60")  # seconds; a machine that builds or measures may be slow to answer
_prefer_running_server()
