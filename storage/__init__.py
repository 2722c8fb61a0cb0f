"""What is kept: artifacts, measurements, and the data that ships with slimline."""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "bundled" / "model"
