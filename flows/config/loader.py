"""Reading YAML files of studies and hosts, and messages that say what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError


class StudyError(ValueError):
    """A study that cannot run: the message names the field, its value, and what is allowed."""


# A larger file takes PyYAML minutes and gigabytes; the studies that ship have 5 kB.
_MOST_BYTES = 1_000_000
# What YAML 1.1, PyYAML's, and YAML 1.2 read as the same number, or as the same truth value.
_PLAIN = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.I
    ),
    "tag:yaml.org,2002:bool": re.compile(r"true|false", re.IGNORECASE),
    "tag:yaml.org,2002:timestamp": re.compile(r"(?!)"),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what it would change or lose in silence.

    That is a key that appears twice, of which PyYAML keeps the last, and a word that YAML 1.1 takes for a number, a
    truth value or a date: `010` for 8, `1:30` for 90, `no` for false.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} appears twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
            _refuse_ambiguous("", key)
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                _refuse_ambiguous(f"{key.value}: ", each)
        return node


def _refuse_ambiguous(field: str, node: yaml.Node) -> None:
    """Refuse a word that is not what it looks like."""
    if not isinstance(node, yaml.ScalarNode):
        return
    plain, problem = _PLAIN.get(node.tag), None
    if node.style is None and plain and not plain.fullmatch(node.value):
        kind = node.tag.rpartition(":")[2]
        problem = f"YAML 1.1 reads {node.value} as {kind}; quote it, or write a plain number, true or false"
    elif any("\ud800" <= character <= "\udfff" for character in node.value):
        problem = f"{node.value!r} has half a character, which no file can hold"
    if problem:
        raise yaml.MarkedYAMLError(problem=f"{field}{problem}", problem_mark=node.start_mark)


def find_file(field: str, name: str, directory: Path) -> Path:
    """Find a YAML file: one of `directory` by its name, or any by its path.

    Raises:
        StudyError: there is no such file.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if is_path else directory / f"{name}.yaml"
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
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise StudyError(f"{path}: {size:,} bytes; allowed for {what}: {_MOST_BYTES:,}")
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError) as error:  # such as a byte that is not UTF-8
        raise StudyError(f"{path}: not valid YAML: {_place(error)}") from error
    except RecursionError as error:
        raise StudyError(f"{path}: not valid YAML: nested too deeply") from error
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise StudyError(f"{path}: {what} is a mapping of fields, found {found}")
    return content


def _place(error: Exception) -> str:
    """What is wrong with a YAML file, and in which line, in one line."""
    mark = getattr(error, "problem_mark", None)
    problem = [part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    return f"line {mark.line + 1}: {', '.join(problem)}" if mark and problem else " ".join(str(error).split())


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
