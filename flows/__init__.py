"""What runs, in what order, where."""

import os

from slimline.storage.paths import home


def _prefer(name: str, value: str) -> None:
    os.environ.setdefault(name, value)


def _prefer_running_server() -> None:
    """Use the server that `slimline serve` runs for this state directory, if there is one."""
    if "PREFECT_API_URL" not in os.environ and (home() / "serve.json").exists():
        from slimline.flows.server.discovery import running_server  # slow, and most commands do not need it

        if server := running_server():
            os.environ |= {"PREFECT_API_URL": server.api, "PREFECT_API_AUTH_STRING": server.token}


# Prefect reads its settings when it is first imported, so slimline's defaults are set before that. State is kept in one
# directory, nothing is reported to anyone, and settings of the user take precedence.
_prefer("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
_prefer("DO_NOT_TRACK", "1")
_prefer("HF_HUB_DISABLE_TELEMETRY", "1")
_prefer("ORT_DISABLE_TELEMETRY", "1")
_prefer("PREFECT_LOGGING_LEVEL", "WARNING")
_prefer("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(home() / "results"))
_prefer("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{home()}/prefect.db")
_prefer("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
_prefer("PREFECT_SERVER_DATABASE_TIMEOUT", "60")  # seconds; a machine that builds or measures may be slow to answer
_prefer("PREFECT_CLIENT_MAX_RETRIES", "7")  # after 2, 4, 8, ... seconds, where SQLite is locked by many runs at once
# As `-P` for our own child processes, for those of Prefect and multiprocessing: a user's `json.py` is never imported.
_prefer("PYTHONSAFEPATH", "1")
_prefer_running_server()
