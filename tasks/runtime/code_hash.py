"""What a step's result depends on besides its inputs: the code it runs and the libraries that code names."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Specs are data, hashed with their values; the store moves bytes and cannot change them.
_NOT_CODE_OF_A_STEP = {"slimline.tasks.specs"}
_TASKS = "slimline.tasks"


@lru_cache(maxsize=256)
def fingerprint(*modules: str) -> str:
    """SHA-256 over the code of `modules` and of every module of tasks/ they import, and their libraries' versions.

    Comments, docstrings and formatting do not count: editing them retrains nothing.
    """
    sources = {name: _without_docstrings(_source(name)) for name in _closure(modules)}
    libraries = library_versions(*modules)
    return hashlib.sha256(json.dumps([sources, libraries], sort_keys=True).encode()).hexdigest()


def library_versions(*modules: str) -> dict[str, str]:
    """Installed version of every library that the code of `modules` imports, directly or through tasks/."""
    imported = {name.partition(".")[0] for module in _closure(modules) for name in _imports(module)}
    return {name: found for name in sorted(imported) if (found := _version(name))}


@lru_cache(maxsize=256)
def _version(name: str) -> str | None:
    """Version of the distribution of that import name; None for the standard library and ourselves."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _closure(modules: tuple[str, ...]) -> list[str]:
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in reached or module in _NOT_CODE_OF_A_STEP:
            continue
        reached.add(module)
        waiting += [name for name in _imports(module) if name.startswith(f"{_TASKS}.") and _is_module(name)]
        waiting += [package for package in [module.rpartition(".")[0]] if package.startswith(_TASKS)]
    return sorted(reached)


def _imports(module: str) -> Iterator[str]:
    """Dotted names a module imports, inside functions too; `from a import b` gives both a and a.b."""
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_module(name: str) -> bool:
    path = Path(__file__).parents[1].joinpath(*name.split(".")[2:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@lru_cache(maxsize=256)
def _source(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    return Path(spec.origin).read_text("utf8")


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return ast.dump(tree)
