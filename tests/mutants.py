"""Damaged forms of a file's content: what a failing disk, a cut copy, an editor or an enemy makes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, -0.5, "", "x", "../../x", "/etc/passwd", "\u0000", "\ud800"),
    *([], {}, [[]], ["x"] * 3, {"x": {}}, "9" * 400),
)


def mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Different forms of a content, the same for a seed; those of JSON are half of them JSON."""
    draw = random.Random(seed)
    document = _parsed(content)
    for number in range(count):
        if document is not None and number % 2:
            yield json.dumps(_changed(document, draw)).encode()
        else:
            yield draw.choice(_BYTE_CHANGES)(content, draw)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _changed(document: Any, draw: random.Random) -> Any:
    """The document with a part of it replaced, removed, or doubled."""
    if not isinstance(document, dict | list) or not document or draw.random() < 0.1:
        return draw.choice(_ODD)
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = draw.choice(keys)
    copy = dict(document) if isinstance(document, dict) else list(document)
    choice = draw.random()
    if choice < 0.15:
        del copy[key]
    elif choice < 0.25 and isinstance(copy, list):
        copy.append(copy[key])
    elif choice < 0.25:
        copy[str(draw.choice(_ODD))] = copy[key]
    else:
        copy[key] = _changed(copy[key], draw)
    return copy


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 20))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _remove(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.choice((1, 4, 100)) :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + draw.randbytes(draw.choice((1, 8, 300))) + content[start:]


def _double(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    end = start + draw.choice((1, 16, len(content)))
    return content[:end] + content[start:]


def _number(content: bytes, draw: random.Random) -> bytes:
    """Eight bytes that are a large number, as of lengths and offsets."""
    start = draw.randrange(max(1, len(content) - 8))
    value = draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
    return content[:start] + value.to_bytes(8, "little") + content[start + 8 :]


_BYTE_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _cut,
    _remove,
    _insert,
    _double,
    _number,
)
