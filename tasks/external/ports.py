"""Inputs and outputs of a graph that others made: which is which, by the names that exporters give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.models.external import CachePort, GraphInputs

_ROLES = {
    "input_ids": "tokens",
    "attention_mask": "mask",
    "position_ids": "positions",
    "num_logits_to_keep": "kept",
    "logits_to_keep": "kept",
    "use_cache_branch": "has_cache",
    "beam_idx": "parents",
}
_INTEGERS = ("int64", "int32")
_ALLOWED = {
    "tokens": _INTEGERS,
    "mask": (*_INTEGERS, "float32", "bool"),
    "positions": _INTEGERS,
    "kept": _INTEGERS,
    "has_cache": ("bool",),
    "parents": _INTEGERS,
}
_CACHES = {  # of optimum and GenAI, and of onnxruntime's own exporter of GPT-2
    "past_key_values.%d.key": "present.%d.key",
    "past_key_values.%d.value": "present.%d.value",
    "past_%d": "present_%d",
}


class Tensor(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: Its name.
        dtype: As numpy calls it.
        shape: A number, or the name of what is only known when it runs, for each axis.
    """

    name: str
    dtype: str
    shape: Sequence[int | str]


class Names(NamedTuple):
    """What a model calls its inputs and outputs.

    Attributes:
        roles: Meaning of an input, by its name.
        caches: Output of a part of the cache, by its input; `%d` is the layer.
        logits: The output with the logits.
        heads: Of a part of the cache, if its shape does not say it.
        head_width: As `heads`.
    """

    roles: Mapping[str, str] = _ROLES
    caches: Mapping[str, str] = _CACHES
    logits: str = "logits"
    heads: int | None = None
    head_width: int | None = None


def genai_names(config: Mapping[str, Any], where: str) -> Names:
    """The names in a `genai_config.json`.

    Raises:
        CheckpointError: it is not of a decoder with one graph.
    """
    decoder = config.get("model", {}).get("decoder", {})
    inputs, outputs = decoder.get("inputs", {}), decoder.get("outputs", {})
    if "pipeline" in decoder or not isinstance(decoder.get("filename"), str):
        raise CheckpointError(f"{where}: model.decoder has no filename; allowed: a decoder in one graph")
    if others := [name for name in ("encoder", "vision", "speech") if name in config["model"]]:
        raise CheckpointError(f"{where}: model.{others[0]} is there; allowed: a decoder only")
    roles = {inputs[name]: role for name, role in _ROLES.items() if name in inputs}
    kinds = [(inputs.get(f"past{kind}names"), outputs.get(f"present{kind}names")) for kind in ("_", "_key_", "_value_")]
    caches = {past: present for past, present in kinds if past and present}
    logits, heads = outputs.get("logits", "logits"), decoder.get("num_key_value_heads")
    return Names({**_ROLES, **roles}, caches or _CACHES, logits, heads, decoder.get("head_size"))


def config_names(config: Mapping[str, Any]) -> Names:
    """The names that exporters use, and what a checkpoint's `config.json` says of the cache."""
    heads = config.get("num_attention_heads", config.get("n_head"))
    width, hidden = config.get("head_dim"), config.get("hidden_size", config.get("n_embd"))
    if width is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        width = hidden // heads
    return Names(heads=config.get("num_key_value_heads", heads), head_width=width)


def graph_inputs(where: str, tensors: Sequence[Tensor], names: Names) -> GraphInputs:
    """The inputs that are not of the cache.

    Raises:
        CheckpointError: there is none for tokens, one has no known name, or one is of another type or shape.
    """
    known = {tensor.name: tensor for tensor in tensors}
    if encoder := [name for name in known if name.startswith(("encoder_", "decoder_input"))]:
        raise CheckpointError(f"{where}: input {encoder[0]} is of an encoder-decoder; allowed: decoder-only models")
    unknown = [name for name in known if name not in names.roles and not _is_cache(name, names)]
    if unknown:
        raise CheckpointError(f"{where}: inputs {', '.join(unknown)} are not known; allowed: {', '.join(names.roles)}")
    ports = {names.roles[name]: tensor for name, tensor in known.items() if name in names.roles}
    if "tokens" not in ports:
        raise CheckpointError(f"{where}: input input_ids is missing")
    for role, tensor in ports.items():
        _check_port(where, role, tensor)
    return GraphInputs.model_validate({role: {"name": t.name, "dtype": t.dtype} for role, t in ports.items()})


def _check_port(where: str, role: str, tensor: Tensor) -> None:
    if tensor.dtype not in _ALLOWED[role]:
        allowed = ", ".join(_ALLOWED[role])
        raise CheckpointError(f"{where}: input {tensor.name} is {tensor.dtype}; allowed: {allowed}")
    axes = {"tokens": 2, "mask": 2, "positions": 2, "kept": 0}.get(role, 1)
    if len(tensor.shape) != axes:
        raise CheckpointError(f"{where}: input {tensor.name} has {len(tensor.shape)} axes; allowed: {axes}")
    if axes == 2 and isinstance(tensor.shape[1], int):
        raise CheckpointError(f"{where}: input {tensor.name} has a fixed length of {tensor.shape[1]}; allowed: any")


def cache_ports(where: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], names: Names) -> tuple[CachePort, ...]:
    """The parts of the cache, layer by layer; none if the graph has no such input.

    Raises:
        CheckpointError: a part is missing, or is of a type or shape that is not known.
    """
    known, made = {tensor.name: tensor for tensor in inputs}, {tensor.name for tensor in outputs}
    found = [(name, _present(name, names)) for name in known if _is_cache(name, names)]
    ports = []
    for past, present in found:
        if present not in made:
            raise CheckpointError(f"{where}: output {present} is missing, which input {past} needs")
        ports.append(_cache_port(where, known[past], present, names))
    return tuple(ports)


def _is_cache(name: str, names: Names) -> bool:
    return _present(name, names) != ""


def _present(name: str, names: Names) -> str:
    """The output that belongs to an input of the cache; empty if it is not one."""
    for past, present in names.caches.items():
        if match := re.fullmatch(re.escape(past).replace("%d", r"(\d+)"), name):
            return present.replace("%d", match[1])
    return ""


def _cache_port(where: str, tensor: Tensor, present: str, names: Names) -> CachePort:
    if tensor.dtype not in ("float32", "float16"):
        raise CheckpointError(f"{where}: input {tensor.name} is {tensor.dtype}; allowed: float32, float16")
    shape = list(tensor.shape)
    is_pair = len(shape) == 5 and shape[0] == 2  # keys and values in one
    if len(shape) != 4 and not is_pair:
        raise CheckpointError(f"{where}: input {tensor.name} has {len(shape)} axes; allowed: 4")
    batch = int(is_pair)
    free = [axis for axis in range(batch + 1, len(shape)) if isinstance(shape[axis], str)]
    named = [axis for axis in free if re.search("past|seq|len", str(shape[axis]))] or free
    if not named:
        raise CheckpointError(f"{where}: input {tensor.name} has a fixed length; allowed: a cache that grows")
    length = named[0] if len(named) == 1 else batch + 2
    known = {batch: 1, length: 0, batch + 1: names.heads, batch + 3: names.head_width}
    sizes = [known.get(axis) if isinstance(size, str) else size for axis, size in enumerate(shape)]
    if None in sizes:
        raise CheckpointError(f"{where}: input {tensor.name} is {shape}; config.json does not say the other sizes")
    sizes[batch], sizes[length] = 1, 0
    return CachePort.model_validate(
        {"name": tensor.name, "dtype": tensor.dtype, "present": present, "shape": sizes, "batch_axis": batch}
    )
