"""Models from torch's dynamic quantization: integers in safetensors, and in JSON what they are of.

`quantization.json` has for every quantized module its `kind`:

- `linear`, also if there is none: `<module>.weight` in int8;
- `embedding`: `<module>.weight` in uint8.

It has one `scale` and `zero_point` of the whole matrix too; where it has not, these are tensors beside the weight,
`<module>.scales` and `<module>.zero_points`, one for each row. A weight is (integer - zero point) * scale; the zero
points of embeddings are fractions.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.ao.nn.quantized import Embedding as Int8Embedding
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear
from transformers import GPT2Config, GPT2LMHeadModel

from slimline.tasks.models.checkpoint import (
    QUANTIZATION,
    WEIGHTS,
    CheckpointError,
    check_weights,
    read_gpt2_config,
    row_scales,
)

METHOD = "torch-dynamic-int8"


class _Kind(NamedTuple):
    """A kind of module: the type of its integers, and what makes one of a quantized matrix."""

    integers: torch.dtype
    build: Callable[[Tensor], nn.Module]


class _Quantization(NamedTuple):
    """What `quantization.json` says of a module; without a scale there is one for each row."""

    kind: str
    scale: float | None
    zero_point: int


def load_quantized(directory: Path) -> GPT2LMHeadModel:
    """The model that `save_quantized` wrote, in evaluation mode.

    Raises:
        CheckpointError: the directory has no such model, is damaged, or lacks tensors.
    """
    read_gpt2_config(directory)
    tensors = load_file(check_weights(directory))
    modules = _read_modules(directory / QUANTIZATION)
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(directory, local_files_only=True))
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    _refuse_missing(directory, set(shapes), modules, tensors)
    weights = {name: _quantized_weight(directory, name, each, tensors) for name, each in modules.items()}
    model.load_state_dict(tensors, strict=False, assign=True)
    for name, weight in weights.items():
        if weight.shape != shapes.get(f"{name}.weight"):
            raise CheckpointError(f"{directory}: {name}.weight is {list(weight.shape)}; config.json says otherwise")
        with ignore_deprecation():
            model.set_submodule(name, _KINDS[modules[name].kind].build(weight))
    return model.eval()


def save_quantized(
    model_dir: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Any]], target: Path
) -> None:
    """Write a quantized model, which is the model of a checkpoint in integers.

    Args:
        model_dir: The checkpoint. Its files are copied; in `config.json` only `tie_word_embeddings` changes, to false.
        tensors: All tensors by name, integers and scales among them.
        modules: What `quantization.json` has of each quantized module.
        target: Directory to write into.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in model_dir.iterdir():
        if path.is_file() and path.name not in (WEIGHTS, "config.json"):
            shutil.copyfile(path, target / path.name)
    save_file(dict(tensors), target / WEIGHTS, metadata={"format": "pt"})
    _write_json(target / QUANTIZATION, {"method": METHOD, "modules": modules})
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    _write_json(target / "config.json", config | {"tie_word_embeddings": False})


@contextmanager
def ignore_deprecation() -> Iterator[None]:
    """Ignore that torch deprecates this interface: the published figures need it, and the version of torch is fixed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning)
        yield


def _int8_linear(weight: Tensor) -> nn.Module:
    linear = Int8Linear(weight.shape[1], weight.shape[0], bias_=False)
    linear.set_weight_bias(weight, None)
    return linear


def _int8_embedding(weight: Tensor) -> nn.Module:
    return Int8Embedding(weight.shape[0], weight.shape[1], _weight=weight, dtype=torch.quint8)


_KINDS = {"linear": _Kind(torch.int8, _int8_linear), "embedding": _Kind(torch.uint8, _int8_embedding)}


def _quantized_weight(directory: Path, name: str, quantization: _Quantization, tensors: dict[str, Tensor]) -> Tensor:
    """The quantized matrix of a module, whose parts are taken out of `tensors`."""
    integers, expected = tensors.pop(f"{name}.weight"), _KINDS[quantization.kind].integers
    if integers.dtype != expected:
        raise CheckpointError(f"{directory}: {name}.weight is {integers.dtype}; allowed: {expected}")
    with ignore_deprecation():
        if quantization.scale is not None:
            return torch._make_per_tensor_quantized_tensor(integers, quantization.scale, quantization.zero_point)
        scales, zeros = (tensors.pop(each) for each in row_scales(name))
        if not len(scales) == len(zeros) == len(integers):
            found = f"{len(scales)} scales and {len(zeros)} zero points"
            raise CheckpointError(f"{directory}: {name} has {found}; allowed: one for each of {len(integers)} rows")
        return torch._make_per_channel_quantized_tensor(integers, scales, zeros, 0)


def _refuse_missing(
    directory: Path, needed: set[str], modules: Mapping[str, _Quantization], tensors: Mapping[str, Tensor]
) -> None:
    of_rows = {part for name, each in modules.items() if each.scale is None for part in row_scales(name)}
    weights = {f"{name}.weight" for name in modules}
    if missing := (needed | weights | of_rows) - tensors.keys():
        raise CheckpointError(f"{directory}: tensors are missing: {', '.join(sorted(missing))}")


def _read_modules(path: Path) -> dict[str, _Quantization]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        method, modules = description["method"], description["modules"]
        found = {name: _read_module(module) for name, module in modules.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: unreadable description of quantized modules ({error!r})") from None
    if method != METHOD:
        raise CheckpointError(f"{path}: method is {method!r}; allowed: {METHOD!r}")
    for name, quantization in found.items():
        if quantization.kind not in _KINDS:
            raise CheckpointError(f"{path}: {name}: kind is {quantization.kind!r}; allowed: {', '.join(_KINDS)}")
    return found


def _read_module(module: Mapping[str, Any]) -> _Quantization:
    if "scale" not in module:
        return _Quantization(module["kind"], None, 0)
    return _Quantization(module.get("kind", "linear"), float(module["scale"]), int(module["zero_point"]))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
