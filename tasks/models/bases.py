"""Base models, from which studies start: from the hub, from a directory, bundled, or with random weights."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.paths import BUNDLED, PREBUILT
from slimline.tasks.data.lexer import END, EOL, PAD, START
from slimline.tasks.data.parquet import read_codes, read_samples
from slimline.tasks.data.tokenizer import (
    changed_lines,
    entries,
    load_tokenizer,
    read_tokenizer,
    save_tokenizer,
    special_tokens,
    train_tokenizer,
)
from slimline.tasks.models.architectures import ARCHITECTURES
from slimline.tasks.models.checkpoint import refuse_not_finite
from slimline.tasks.models.loading import Imported, import_gpt2, load_gpt2, save_gpt2
from slimline.tasks.models.packed import load_dense
from slimline.tasks.specs import Base, BundledBase, HubBase, PathBase, PrebuiltModel, RandomBase

_log = logging.getLogger(__name__)

_LOSSY_SHARE = 0.01
_SPECIAL = {"bos": START, "eos": END, "pad": PAD}


def make_base(base: Base, slice_dir: Path, target: Path) -> dict[str, Any]:
    """Write the base as an fp32 checkpoint with its tokenizer.

    Returns:
        Notes for provenance: parameters, random_weights, and changes, what of a foreign checkpoint was brought to
        another form, a sentence each.

    Raises:
        ValueError: the source is missing, is not a GPT-2, has values that are not finite, or its tokenizer does not
            give back the lines of the slice; the message names the file or field.
    """
    if isinstance(base, RandomBase):
        imported = Imported(_random(base, slice_dir, target), [])
    else:
        imported = _from_directory(_directory(base), target, is_foreign=not isinstance(base, BundledBase))
    model, tokenizer = imported.model, load_tokenizer(target)
    _name_special_tokens(model, tokenizer)
    _refuse_lossy(tokenizer, slice_dir)
    model.save_pretrained(target)
    for change in imported.changes:
        _log.warning("the base was changed: %s", change)
    parameters = sum(weight.numel() for weight in model.parameters())
    changes = {"changes": imported.changes} if imported.changes else {}
    return {"parameters": parameters, "random_weights": isinstance(base, RandomBase)} | changes


def bundled_model() -> Path:
    """The files of the model that is part of slimline, in half precision."""
    store = ArtifactStore(BUNDLED)
    (model,) = store.list()
    return store.path(model)


def unpack_prebuilt(source: Path, target: Path, spec: PrebuiltModel) -> dict[str, Any]:
    """Write the compressed form `spec.name` of the bundled model as an fp32 checkpoint, also if it ships in int8.

    Returns:
        Notes for provenance: those of the compressed form, random_weights, and made_by, the form's provenance.

    Raises:
        ValueError: `source` is not the bundled model.
    """
    _refuse_other_base(spec.name, source)
    store = ArtifactStore(PREBUILT / spec.name)
    (form,) = store.list()
    files = store.path(form)
    save_gpt2(load_dense(files), files, target)
    made_by = store.provenance(form).model_dump(mode="json", exclude={"notes"})
    notes = store.provenance(form).notes
    return {**notes, "random_weights": False, "made_by": made_by}


def _refuse_other_base(form: str, source: Path) -> None:
    """Refuse a model that the form was not made of.

    Raises:
        ValueError: with the number of tensors that differ.
    """
    original, found = (load_gpt2(directory).state_dict() for directory in (bundled_model(), source))
    other = [
        name for name, tensor in original.items() if name not in found or not torch.equal(tensor, found[name])
    ] + sorted(found.keys() - original.keys())
    if other:
        raise ValueError(
            f"prebuilt.name: {form} was made of the bundled model, but the input is another one: {len(other)} of "
            f"{len(original)} tensors differ, such as {other[0]}; allowed: base: bundled, and no step before this one"
        )


def _directory(base: HubBase | PathBase | BundledBase) -> Path:
    """The directory with the files of a base; those of the hub are downloaded to its cache."""
    if isinstance(base, BundledBase):
        return bundled_model()
    directory = base.directory.expanduser() if isinstance(base, PathBase) else _downloaded(base)
    if not (directory / "config.json").is_file():
        field = "directory" if isinstance(base, PathBase) else "id"
        raise ValueError(f"base.{field}: {directory} has no config.json; allowed: a GPT-2 checkpoint directory")
    return directory


def _downloaded(base: HubBase) -> Path:
    """The files of a model of the hub; an `id` that is a directory here is that directory, as in transformers."""
    if Path(base.id).expanduser().is_dir():
        return Path(base.id).expanduser()
    for weights in ("*.safetensors", "*.bin"):
        wanted = ["*.json", "*.txt", weights]
        directory = Path(snapshot_download(base.id, revision=base.revision, allow_patterns=wanted))
        if any(directory.glob(weights)):
            break
    return directory


def _from_directory(directory: Path, target: Path, is_foreign: bool) -> Imported:
    imported = import_gpt2(directory)
    weights = imported.model.state_dict().items()
    refuse_not_finite(str(directory), ((name, weight.numpy()) for name, weight in weights))
    if is_foreign:
        _adopt_tokenizer(directory, target, imported)
    else:
        _copy_tokenizer(directory, target)
    return imported


def _random(base: RandomBase, slice_dir: Path, target: Path) -> GPT2LMHeadModel:
    shape = ARCHITECTURES[base.architecture]
    if base.tokenizer == "train":
        trained = train_tokenizer(read_codes(slice_dir, "train"), shape["vocab_size"])
        save_tokenizer(trained, target, shape["n_positions"])
    else:
        _copy_tokenizer(bundled_model(), target)
    torch.manual_seed(base.seed)
    none = {f"{role}_token_id": None for role in _SPECIAL}
    return GPT2LMHeadModel(GPT2Config(**shape, **none, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def _copy_tokenizer(directory: Path, target: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(directory / name, target / name)


def _adopt_tokenizer(directory: Path, target: Path, imported: Imported) -> None:
    """Write the tokenizer of a foreign checkpoint with CodeXGLUE's special tokens, and fit the embedding to it.

    Its own reading of its file is kept: the ids of a text are those that the model was trained with.

    Raises:
        ValueError: the tokenizer has more tokens than the embedding has rows.
    """
    model, changes = imported
    tokenizer = _foreign_tokenizer(directory)
    known, rows = entries(tokenizer), model.config.vocab_size
    if known > rows:
        raise ValueError(f"{directory}: the tokenizer has {known} tokens, but the embedding only {rows} rows")
    if known < rows:
        model.resize_token_embeddings(known)
        changes.append(f"{rows - known} rows of the embedding, which no token has, are cut")
    if unused := known - tokenizer.get_vocab_size(with_added_tokens=True):
        changes.append(f"{unused} rows of the embedding have no token: if one is generated, it is no text")
    if any(tokenizer.token_to_id(token) is None for token in (START, END, EOL)):
        tokenizer.add_special_tokens(special_tokens())  # as CodeXGLUE's run_lm.py does
        model.resize_token_embeddings(entries(tokenizer), mean_resizing=True)
    save_tokenizer(tokenizer, target, model.config.n_positions)


def _foreign_tokenizer(directory: Path) -> Tokenizer:
    if (directory / "tokenizer.json").is_file():
        return read_tokenizer(directory / "tokenizer.json")
    # Without these files transformers would make a tokenizer of its own.
    if not all((directory / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise ValueError(f"{directory}: tokenizer.json is missing; allowed: that, or vocab.json with merges.txt")
    try:
        read: Tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True).backend_tokenizer
    except Exception as error:  # tokenizers has no class of its own
        raise ValueError(f"{directory}: no readable vocab.json and merges.txt ({error})") from error
    return read


def _name_special_tokens(model: GPT2LMHeadModel, tokenizer: Tokenizer) -> None:
    """Say in the configuration which ids begin, end and fill a text."""
    for role, token in _SPECIAL.items():
        for config in (model.config, model.generation_config):
            setattr(config, f"{role}_token_id", tokenizer.token_to_id(token))


def _refuse_lossy(tokenizer: Tokenizer, slice_dir: Path) -> None:
    """Refuse a tokenizer that does not give back the lines to complete: no completion could be right.

    Raises:
        ValueError: with an example, if it is more than one line in a hundred; fewer are only logged.
    """
    if not (slice_dir / "samples.parquet").is_file():
        return
    lines = dict.fromkeys(sample.gt for sample in read_samples(slice_dir))
    changed = changed_lines(tokenizer, lines)
    if not changed:
        return
    line, back = changed[0]
    message = (
        f"the tokenizer does not give back {len(changed)} of {len(lines)} lines, such as {line!r}: it gives {back!r}"
    )
    if len(changed) > len(lines) * _LOSSY_SHARE:
        raise ValueError(f"base: {message}")
    _log.warning("%s", message)
