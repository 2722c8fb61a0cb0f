"""What is kept: artifacts, measurements, and the data that ships with slimline."""

import os
from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "bundled" / "model"


def home() -> Path:
    """Where state lives: SLIMLINE_HOME, or .slimline in the current directory."""
    return Path(os.environ.get("SLIMLINE_HOME", ".slimline")).absolute()
