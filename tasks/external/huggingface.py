"""Checkpoints of transformers, of any architecture that has a class for causal language models there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from slimline.tasks.external.files import Foreign, ForeignDirectory, positions
from slimline.tasks.models.checkpoint import ATTENTION_MASKS, WEIGHTS, CheckpointError, read_object
from slimline.tasks.models.external import Layout
from slimline.tasks.specs import External

_INDEX = f"{WEIGHTS}.index.json"
_HEAD = "lm_head.weight"


def read(spec: External, directory: ForeignDirectory) -> Foreign:
    """The layout of the checkpoint in a directory, and its parameters.

    Raises:
        CheckpointError: it is not of a causal language model that transformers has, it is quantized, or a file or
            tensor is missing or damaged.
    """
    config = read_object(directory.take("config.json"))
    _check_config(f"{directory.path}/config.json", config, directory)
    files = _weight_files(directory)
    nested = config.get("text_config")
    size = (config | (nested if isinstance(nested, dict) else {})).get("vocab_size")
    if not isinstance(size, int):
        raise CheckpointError(f"{directory.path}/config.json: vocab_size is {size!r}; allowed: a number")
    layout = Layout(format="huggingface", n_positions=positions(directory, spec.n_positions), vocabulary=size)
    return Foreign(layout, _parameters(files, bool(config.get("tie_word_embeddings", True))))


def _check_config(where: str, config: dict[str, Any], directory: ForeignDirectory) -> None:
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if directory.has("adapter_config.json"):
        raise CheckpointError(
            f"{directory.path}: adapter_config.json is there; allowed: a whole model (merge_and_unload)"
        )
    if config.get("is_encoder_decoder"):
        raise CheckpointError(f"{where}: is_encoder_decoder is true; allowed: decoder-only models")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        why = "it needs code of its own, which is not run" if config.get("auto_map") else "transformers has no such one"
        raise CheckpointError(f"{where}: model_type is {kind!r}; {why}")
    allowed = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    if architectures and allowed not in architectures:
        raise CheckpointError(f"{where}: architectures is {', '.join(map(str, architectures))}; allowed: {allowed}")
    if config.get("quantization_config"):
        raise CheckpointError(f"{where}: quantization_config: the weights are quantized; dequantize them first")


def _weight_files(directory: ForeignDirectory) -> list[Path]:
    if directory.has(WEIGHTS):
        return [directory.take(WEIGHTS)]
    if not directory.has(_INDEX):
        pickled = (
            "; pytorch_model.bin is a pickle, which is not opened" if directory.names("pytorch_model*.bin") else ""
        )
        raise CheckpointError(
            f"{directory.path}: {WEIGHTS} is missing{pickled}; AutoModelForCausalLM.from_pretrained(...) and "
            "save_pretrained(...) of transformers write it"
        )
    places = read_object(directory.take(_INDEX)).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{directory.path}/{_INDEX}: weight_map is missing")
    return [directory.take(str(name), f"{_INDEX} has tensors in it") for name in sorted(set(map(str, places.values())))]


def _parameters(files: list[Path], is_tied: bool) -> dict[str, int]:
    total = nonzero = 0
    for path, name, tensor in _tensors(files):
        if tensor.is_floating_point() and (bad := int((~torch.isfinite(tensor)).sum())):
            raise CheckpointError(f"{path}: {name} is NaN or infinite at {bad} of its {tensor.numel()} places")
        if name.endswith(ATTENTION_MASKS) or (is_tied and name == _HEAD):
            continue
        total += tensor.numel()
        nonzero += int(torch.count_nonzero(tensor))
    return {"parameters": total, "parameters_nonzero": nonzero}


def _tensors(files: list[Path]) -> Iterator[tuple[Path, str, torch.Tensor]]:
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    yield path, name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: truncated or damaged ({error})") from None
