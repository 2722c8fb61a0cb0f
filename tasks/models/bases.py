"""Base models, from which studies start: from the hub, from a directory, bundled, or with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.paths import BUNDLED, PREBUILT
from slimline.tasks.data.lexer import END, EOL, PAD, START
from slimline.tasks.data.parquet import read_codes
from slimline.tasks.data.tokenizer import load_tokenizer, save_tokenizer, special_tokens, train_tokenizer
from slimline.tasks.models.architectures import ARCHITECTURES
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.specs import Base, HubBase, PathBase, PrebuiltModel, RandomBase

transformers_logging.disable_progress_bar()

_SPECIAL = {"bos": START, "eos": END, "pad": PAD}


def make_base(base: Base, slice_dir: Path, target: Path) -> dict[str, Any]:
    """Write the base as an fp32 checkpoint with its tokenizer.

    Returns:
        Notes for provenance: parameters, random_weights.

    Raises:
        ValueError: the source is missing, or is not a GPT-2; the message names the field.
    """
    if isinstance(base, RandomBase):
        model = _random(base, slice_dir, target)
    elif isinstance(base, HubBase):
        model = _from_hub(base, target)
    else:
        model = _from_directory(base.directory if isinstance(base, PathBase) else bundled_model(), target)
    model.save_pretrained(target)
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "random_weights": isinstance(base, RandomBase)}


def bundled_model() -> Path:
    """The files of the model that is part of slimline, in half precision."""
    store = ArtifactStore(BUNDLED)
    (model,) = store.list()
    return store.path(model)


def unpack_prebuilt(source: Path, target: Path, spec: PrebuiltModel) -> dict[str, Any]:
    """Write the compressed form `spec.name` of the bundled model as an fp32 checkpoint.

    Returns:
        Notes for provenance: those of the compressed form, random_weights, and made_by, the form's provenance.

    Raises:
        ValueError: there is no such form, or `source` is not the bundled model.
    """
    names = sorted(path.name for path in PREBUILT.iterdir()) if PREBUILT.is_dir() else []
    if spec.name not in names:
        raise ValueError(f"prebuilt.name: {spec.name!r}, allowed: {', '.join(names)}")
    original, found = (load_gpt2(directory).state_dict() for directory in (bundled_model(), source))
    if original.keys() != found.keys() or not all(torch.equal(original[name], found[name]) for name in original):
        raise ValueError("prebuilt: the step's input is another model; allowed: base: bundled")
    store = ArtifactStore(PREBUILT / spec.name)
    (form,) = store.list()
    model = load_gpt2(store.path(form))
    save_gpt2(model, store.path(form), target)
    made_by = store.provenance(form).model_dump(mode="json", exclude={"notes"})
    notes = store.provenance(form).notes
    return {**notes, "random_weights": False, "made_by": made_by}


def _from_directory(directory: Path, target: Path) -> GPT2LMHeadModel:
    if not (directory / "config.json").is_file():
        raise ValueError(f"base.directory: {directory} has no config.json; allowed: a GPT-2 checkpoint directory")
    model = load_gpt2(directory)
    if _completes_lines(directory):
        _copy_tokenizer(directory, target)
    else:
        _extend_tokenizer(_local_tokenizer(directory), target, model)
    return model


def _from_hub(base: HubBase, target: Path) -> GPT2LMHeadModel:
    model = AutoModelForCausalLM.from_pretrained(base.id, revision=base.revision, dtype=torch.float32)
    if not isinstance(model, GPT2LMHeadModel):
        raise ValueError(f"base.id: {base.id} is a {model.config.model_type} model; allowed: gpt2")
    _extend_tokenizer(AutoTokenizer.from_pretrained(base.id, revision=base.revision), target, model)
    return model


def _random(base: RandomBase, slice_dir: Path, target: Path) -> GPT2LMHeadModel:
    shape = ARCHITECTURES[base.architecture]
    if base.tokenizer == "train":
        trained = train_tokenizer(read_codes(slice_dir, "train"), shape["vocab_size"])
        save_tokenizer(trained, target, shape["n_positions"])
    else:
        _copy_tokenizer(bundled_model(), target)
    tokenizer = load_tokenizer(target)
    special = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in _SPECIAL.items()}
    torch.manual_seed(base.seed)
    return GPT2LMHeadModel(GPT2Config(**shape, **special, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def _completes_lines(directory: Path) -> bool:
    try:
        load_tokenizer(directory)
    except Exception:  # tokenizers raises that for a damaged file
        return False
    return True


def _local_tokenizer(directory: Path) -> Any:
    # Without these files transformers would make a tokenizer of its own.
    if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(f"base.directory: {directory} has neither tokenizer.json nor vocab.json; one is needed")
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers has no class of its own
        raise ValueError(f"base.directory: {directory}: no readable tokenizer.json or vocab.json: {error}") from error


def _copy_tokenizer(directory: Path, target: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, target / name)


def _extend_tokenizer(tokenizer: Any, target: Path, model: GPT2LMHeadModel) -> None:
    """Add CodeXGLUE's special tokens, as its run_lm.py does, and extend the embedding by rows for new tokens."""
    tokenizer.add_special_tokens({"bos_token": START, "eos_token": END, "sep_token": EOL, "pad_token": PAD})
    tokenizer.add_tokens(special_tokens(), special_tokens=True)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    tokenizer.save_pretrained(target)
