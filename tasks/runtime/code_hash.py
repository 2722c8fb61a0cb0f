"""What a step's result depends on besides its inputs: the code it runs, and the files and libraries that code names.

The code of a step is its module and every module that this one imports, directly or through others, from slimline.tasks
or, for a step of a user's own, from the folder that the module is in. slimline.storage is deliberately not part of it:
the store moves bytes and cannot change them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path

_TASKS = "slimline.tasks"
# Specs are hashed with their values, and the table of steps only names the code that is hashed.
_NOT_CODE_OF_A_STEP = (f"{_TASKS}.specs", f"{_TASKS}.registry")
_FILE_NAME = re.compile(r"\w[\w. -]*(/\w[\w. -]*)*")  # neither absolute nor above the folder
_LONGEST_NAME = 255  # bytes; the system refuses to look for a file with a longer one


@lru_cache(maxsize=256)
def code_hash(*modules: str) -> str:
    """SHA-256 over the code of steps, the data files beside it that it names, and its libraries' versions.

    Comments, docstrings and formatting do not count: editing them retrains nothing. A data file counts if a string in
    the code is its path relative to the folder of one of the modules, as `"literals.json"` in `lexer.py` is.

    Args:
        modules: Names of the modules that the steps' functions are in.

    Raises:
        ModuleNotFoundError: one of `modules` has no source file.
    """
    code = _closure(modules)
    sources = {module: _without_docstrings(module) for module in code}
    parts = [sources, dict(_data_files(code)), step_libraries(*modules)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def step_libraries(*modules: str) -> dict[str, str]:
    """Installed version of every library that the code of steps imports, by its import name."""
    code = _closure(modules)
    imported = {name.partition(".")[0] for module in code for name in _imports(module)}
    libraries = imported - sys.stdlib_module_names - {module.partition(".")[0] for module in [*code, "slimline"]}
    return {name: found for name in sorted(libraries) if (found := _version(name))}


@lru_cache(maxsize=256)
def _version(name: str) -> str | None:
    """Version of the distribution of that import name; None if nothing of that name is installed."""
    try:
        return version(name)
    except PackageNotFoundError:  # the distribution has another name, as that of `yaml`
        return " ".join(sorted({version(each) for each in _distributions().get(name, ())})) or None


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # reads a file of every installed package, which takes a second


# -------------------------------------------------------------------------------------------------- modules of a step


def _closure(modules: tuple[str, ...]) -> list[str]:
    """The modules whose code counts, `modules` included."""
    for module in modules:
        if _file(module) is None:
            raise ModuleNotFoundError(f"module {module} has no source file")
    tops = {module.partition(".")[0] for module in modules} - {"slimline"}
    folders = {_folder(top) for top in tops} - _installation_folders()
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in reached or _is_spec_or_row(module) or _file(module) is None:
            continue
        reached.add(module)
        found = [*_imports(module), module.rpartition(".")[0]]
        waiting += [name for name in found if _is_step_code(name, tops, folders)]
    return sorted(reached)


def _is_spec_or_row(module: str) -> bool:
    return any(f"{module}.".startswith(f"{each}.") for each in _NOT_CODE_OF_A_STEP)


def _is_step_code(module: str, tops: set[str], folders: set[Path | None]) -> bool:
    """Whether it is ours, or one of a user's packages `tops`, or in one of a user's `folders`."""
    top = module.partition(".")[0]
    if top == "slimline":
        return f"{module}.".startswith(f"{_TASKS}.")
    return top in tops or bool(folders and top and _folder(top) in folders)


@lru_cache(maxsize=1)
def _installation_folders() -> set[Path | None]:
    """Where Python and its packages are: what lies beside a module there has nothing to do with it."""
    return {None, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))}


@lru_cache(maxsize=1024)
def _folder(top: str) -> Path | None:
    """The folder that a top-level module or package is in; None if there is no such module, or it is built in."""
    spec = find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.origin and spec.has_location else None


@lru_cache(maxsize=1024)
def _file(module: str) -> Path | None:
    """The source file of a module, found without importing it; None if it is a namespace package, or no module."""
    top, *names = module.split(".")
    folder = Path(__file__).parents[1] if top == "slimline" else _folder(top)
    if folder is None:
        return None
    path = folder.joinpath(*names[1:]) if top == "slimline" else folder.joinpath(top, *names)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


# --------------------------------------------------------------------------------------------- what is in their source


@lru_cache(maxsize=256)
def _source(module: str) -> bytes:
    file = _file(module)
    assert file  # every module of a closure has one
    return file.read_bytes()


@lru_cache(maxsize=256)
def _nodes(module: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(_source(module))))


def _imports(module: str) -> Iterator[str]:
    """Full names of what a module imports, inside functions too; `from a import b` gives both a and a.b."""
    file = _file(module)
    package = module if file and file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _nodes(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield str(origin)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _is_file_name(text: str) -> bool:
    return _FILE_NAME.fullmatch(text) is not None and len(text.encode()) <= _LONGEST_NAME


def _data_files(modules: list[str]) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of the files beside the modules that a string in any of them names."""
    strings = {
        node.value
        for module in modules
        for node in _nodes(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_file_name(node.value)
    }
    folders = {file.parent: module.rpartition(".")[0] for module in modules if (file := _file(module))}
    for folder, package in folders.items():
        for name in strings:
            if not name.endswith(".py") and (folder / name).is_file():
                yield f"{package}/{name}", hashlib.sha256((folder / name).read_bytes()).hexdigest()


def _without_docstrings(module: str) -> str:
    tree = ast.parse(_source(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return ast.dump(tree)
