"""Where slimline's own files are, and where its state lives."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"
"""An artifact store like any other, with the model that ships with slimline."""
PREBUILT = BUNDLED / "prebuilt"
"""An artifact store for each compressed form of the bundled model, by its name."""


def home() -> Path:
    """Where state lives: SLIMLINE_HOME, or .slimline in the current directory."""
    return Path(os.environ.get("SLIMLINE_HOME", ".slimline")).absolute()
