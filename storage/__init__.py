"""What is kept: artifacts, measurements, and the data that ships with slimline."""

import os
from pathlib import Path

# An artifact store like any other, with one model in it.
BUNDLED = Path(__file__).parent / "bundled"
# A store for each compressed form of the bundled model, by its name.
PREBUILT = BUNDLED / "prebuilt"


def home() -> Path:
    """Where state lives: SLIMLINE_HOME, or .slimline in the current directory."""
    return Path(os.environ.get("SLIMLINE_HOME", ".slimline")).absolute()
