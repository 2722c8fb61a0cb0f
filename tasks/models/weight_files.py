"""Tensors of a checkpoint, in any of the files that Hugging Face's models come in."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from slimline.tasks.models.checkpoint import ATTENTION_MASKS, WEIGHTS, CheckpointError, read_object

Tensors = dict[str, torch.Tensor]

_PICKLE = "pytorch_model.bin"
# What wrappers put between the names of modules: torch.compile, DataParallel, FSDP, activation checkpointing.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_SHOWN = 4


def read_tensors(directory: Path) -> tuple[Path, Tensors]:
    """The tensors of a model, from safetensors, its shards, `pytorch_model.bin`, or its shards, whichever is there.

    A `.bin` is read as weights only: what else its pickle would do is refused by torch.

    Returns:
        The file, or the index of the shards; the tensors by the names in it.

    Raises:
        CheckpointError: there is no such file, one is damaged, or shards are not those of their index.
    """
    readers: dict[str, Callable[[Path], Tensors]] = {
        WEIGHTS: _read_safetensors,
        f"{WEIGHTS}.index.json": _read_shards,
        _PICKLE: _read_pickle,
        f"{_PICKLE}.index.json": _read_shards,
    }
    for name, read in readers.items():
        if (directory / name).is_file():
            return directory / name, read(directory / name)
    raise CheckpointError(f"{directory}: {WEIGHTS} is missing; allowed: one of {', '.join(readers)}")


def _read_safetensors(path: Path) -> Tensors:
    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error})") from error
    return tensors


def _read_pickle(path: Path) -> Tensors:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CheckpointError(f"{path}: no readable file of weights only ({reason})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a {type(found).__name__}; allowed: a dictionary of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise CheckpointError(f"{path}: {name!r} is a {kind}; allowed: tensors only, a model's state_dict()")
    return found


def _read_shards(index: Path) -> Tensors:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index}: weight_map is missing; allowed: an object from tensors to files")
    read = _read_safetensors if WEIGHTS in index.name else _read_pickle
    tensors: Tensors = {}
    for name in sorted(set(places.values())):
        # A name, never a path: an index that came with a download does not read other files.
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: the shard {name!r} is missing beside it")
        tensors |= read(index.parent / name)
    if different := places.keys() ^ tensors.keys():
        raise CheckpointError(f"{index}: not the tensors of its shards: {shown(different)}")
    return tensors


def gpt2_names(path: Path, tensors: Tensors) -> tuple[Tensors, str]:
    """The tensors by the names of transformers' GPT2LMHeadModel, without constants that older versions stored.

    Returns:
        The tensors, and the prefix that their names had, such as `_orig_mod.`; "" if none.

    Raises:
        CheckpointError: they are not a GPT-2's, or two have the same name.
    """
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in tensors}
    prefix = _prefix(path, plain.values())
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        rest = plain[name].removeprefix(prefix)
        if rest.endswith(ATTENTION_MASKS):
            continue
        full = rest if rest.startswith(("transformer.", "lm_head.")) else f"transformer.{rest}"
        if full in renamed:
            raise CheckpointError(f"{path}: two tensors are called {full}")
        renamed[full] = tensor
    example = next(name for name in tensors if plain[name].endswith("wte.weight"))
    return renamed, example.removesuffix("wte.weight").removesuffix("transformer.")


def _prefix(path: Path, names: Iterable[str]) -> str:
    """What stands before `transformer.wte.weight`, or before `wte.weight`."""
    found = {match[1] for name in names if (match := re.fullmatch(r"(.*?)(?:transformer\.)?wte\.weight", name))}
    if len(found) != 1:
        raise CheckpointError(f"{path}: not a GPT-2's tensors: {shown(names)}; one must be transformer.wte.weight")
    return found.pop()


def shown(names: Iterable[str]) -> str:
    """Some of the names, and how many there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
