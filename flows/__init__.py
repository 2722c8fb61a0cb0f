"""What runs, in what order, where."""

import os

from storage import home


def _prefer(name: str, value: str) -> None:
    os.environ.setdefault(name, value)


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
