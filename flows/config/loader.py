"""Reading YAML files of studies and hosts, and messages that say what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError


class StudyError(ValueError):
    """A study that cannot run: the message names the field, its value, and what is allowed."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that appears twice is an error; PyYAML silently keeps the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} appears twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


def find_file(field: str, name: str, directory: Path) -> Path:
    """Find a YAML file: one of `directory` by its name, or any by its path.

    Raises:
        StudyError: there is no such file.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else directory / f"{name}.yaml"
    known = yaml_names(directory)
    if not (path.is_file() if is_path else name in known):
        raise StudyError(f"{field}: {unknown_name(name, known)}, or the path of a .yaml file")
    return path


def yaml_names(directory: Path) -> list[str]:
    """The names of the YAML files that ship in a directory."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def read_fields(path: Path, what: str) -> dict[str, Any]:
    """Read the fields of a YAML file.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        StudyError: it is not valid YAML, or not a mapping of fields.
    """
    try:
        content = yaml.load(path.read_text("utf8"), _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError) as error:  # such as a date that does not exist
        raise StudyError(f"{path}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise StudyError(f"{path}: not valid YAML: nested too deeply") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise StudyError(f"{path}: {what} is a mapping of fields, found {found}")
    return content


def problem_lines(error: ValidationError, whole: str = "study") -> Iterator[str]:
    """Describe each problem in one line: the field's path, what is allowed, and the value that was found.

    Args:
        error: what pydantic found.
        whole: the name of the document, for problems that belong to no single field.
    """
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or whole
        value = problem["input"]
        found = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
        yield f"{field}: {problem['msg'].removeprefix('Value error, ')}{found}"


def unknown_name(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """Say that a name is unknown, which known name is similar, and what is allowed."""
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ";"
    return f"{name!r} is unknown{hint} allowed: {', '.join(known)}"
