"""Maps the four top-level folders to one package, `slimline`; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

PARTS = ("dashboards", "flows", "storage", "tasks")

setup(
    # Namespace packages, so that folders which hold only data count as well: setuptools warns of every other one.
    packages=[f"slimline.{name}" for part in PARTS for name in find_namespace_packages(include=[part, f"{part}.*"])],
    package_dir={f"slimline.{part}": part for part in PARTS},
)
