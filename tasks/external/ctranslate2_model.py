"""CTranslate2 directories, as its converters write them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.data.lexer import END, EOL, START
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.engines.ctranslate2_engine import read_vocabulary, vocabulary_file
from slimline.tasks.external.files import Foreign, ForeignDirectory, positions
from slimline.tasks.external.weights import count_weights
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.external import Layout
from slimline.tasks.specs import External

_MODEL = "model.bin"
_VERSION = 6
_DECODER = "TransformerDecoderSpec"
_EMBEDDING, _POSITIONS = "decoder/embeddings/weight", "decoder/position_encodings/encodings"
_TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")


class _Variable(NamedTuple):
    """A stored tensor: its name, its type by the library's name, its shape, and where its bytes are."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read(spec: External, directory: ForeignDirectory) -> Foreign:
    """The layout of the model in a directory; parameters, unless its weights are quantized.

    Raises:
        CheckpointError: it is not a decoder; a file is missing or damaged; its tokens are not those of tokenizer.json.
    """
    path = directory.take(_MODEL)
    directory.take("config.json")
    directory.take(vocabulary_file(directory.path).name)
    variables = {each.name: each for each in _variables(path)}
    embedding, encodings = variables.get(_EMBEDDING), variables.get(_POSITIONS)
    if embedding is None:
        raise CheckpointError(f"{path}: {_EMBEDDING} is missing")
    layout = Layout(
        format="ctranslate2",
        n_positions=positions(directory, spec.n_positions, encodings.shape[0] if encodings else None),
        vocabulary=embedding.shape[0],
        graph=_MODEL,
    )
    _check_tokens(directory, layout.vocabulary)
    counted = count_weights(str(path), _floats(path, variables.values()), layout.vocabulary)
    is_quantized = any(each.kind.startswith("int") and len(each.shape) > 1 for each in variables.values())
    return Foreign(layout, {} if is_quantized else counted)


def _check_tokens(directory: ForeignDirectory, size: int) -> None:
    """The ids of tokenizer.json are those of the model's own vocabulary."""
    directory.take("tokenizer.json", "copy it from the checkpoint that the model was made of")
    tokens, tokenizer = read_vocabulary(directory.path, size), load_tokenizer(directory.path)
    for token in (START, END, EOL):
        index = tokenizer.token_to_id(token)
        if index is None or index >= len(tokens) or tokens[index] != token:
            raise CheckpointError(f"{directory.path}: the vocabulary has not {token} at {index}, as tokenizer.json has")


def _variables(path: Path) -> Iterator[_Variable]:
    with path.open("rb") as file:
        try:
            (version,) = _numbers(file, "I")
            name, _ = _string(file), _numbers(file, "I")
            if version != _VERSION or name != _DECODER:
                raise CheckpointError(f"{path}: {name}, version {version}; allowed: {_DECODER}, version {_VERSION}")
            (count,) = _numbers(file, "I")
            for _ in range(count):
                yield _variable(file)
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            raise CheckpointError(f"{path}: truncated or damaged ({error})") from None


def _variable(file: BinaryIO) -> _Variable:
    name = _string(file)
    (axes,) = _numbers(file, "B")
    shape = _numbers(file, f"{axes}I")
    kind, size = *_numbers(file, "B"), *_numbers(file, "I")
    offset = file.tell()
    if file.seek(0, 2) < offset + size:
        raise struct.error(f"{name} has {size} bytes")
    file.seek(offset + size)
    return _Variable(name, _TYPES[kind], shape, offset, size)


def _numbers(file: BinaryIO, kinds: str) -> tuple[int, ...]:
    return struct.unpack(f"<{kinds}", file.read(struct.calcsize(f"<{kinds}")))


def _string(file: BinaryIO) -> str:
    (length,) = _numbers(file, "H")
    return file.read(length).rstrip(b"\0").decode()


def _floats(path: Path, variables: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    for each in variables:
        if not each.kind.startswith("int"):
            with path.open("rb") as file:
                file.seek(each.offset)
                yield each.name, _values(file.read(each.size), each)


def _values(stored: bytes, variable: _Variable) -> NDArray[Any]:
    if variable.kind == "bfloat16":  # the upper half of float32
        wide = np.frombuffer(stored, dtype="<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(variable.shape)
    return np.frombuffer(stored, dtype=variable.kind).reshape(variable.shape)
