"""The step that takes a model that others made into the store: as it is, with what an engine has to know of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimline.storage.extras import import_module
from slimline.tasks.data.tokenizer import entries, load_tokenizer
from slimline.tasks.external.files import Foreign, ForeignDirectory
from slimline.tasks.formats import format_of
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.external import write_layout
from slimline.tasks.specs import External, ForeignFormat

_READERS: dict[ForeignFormat, str] = {
    "huggingface": "slimline.tasks.external.huggingface",
    "onnx": "slimline.tasks.external.onnx_graph",
    "openvino": "slimline.tasks.external.openvino_graph",
    "ctranslate2": "slimline.tasks.external.ctranslate2_model",
}


def adopt(spec: External, target: Path) -> dict[str, Any]:
    """Copy the files that inference needs of the model in `spec.directory`, and write its layout.

    Returns:
        Notes for provenance: format, n_positions; parameters and parameters_nonzero where they can be counted.

    Raises:
        ValueError: something is missing, damaged or of a kind that cannot be run; the message says what.
        MissingExtraError: its engine is not installed.
    """
    format_ = format_of(spec)
    directory = ForeignDirectory(spec.directory)
    read: Callable[[External, ForeignDirectory], Foreign] = import_module(_READERS[format_]).read
    layout, notes = read(spec, directory)
    _check_tokenizer(directory, layout.vocabulary)
    directory.copy_to(target)
    write_layout(layout, target)
    return {"format": format_, "n_positions": layout.n_positions, **notes}


def _check_tokenizer(directory: ForeignDirectory, vocabulary: int) -> None:
    directory.take("tokenizer.json", "copy it from the checkpoint that the model was made of")
    known = entries(load_tokenizer(directory.path))
    if known > vocabulary:
        raise CheckpointError(f"{directory.path}: the tokenizer has {known} tokens, but the model only {vocabulary}")
