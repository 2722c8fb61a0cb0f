"""Second moments of what flows through a GPT-2, on calibration windows: all that importance and repair need to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows

_WINDOWS_AT_ONCE = 4


class Moments(NamedTuple):
    """First and second moments of vectors: mean [size] and product, the mean of their outer products [size, size]."""

    mean: Tensor
    product: Tensor

    def covariance(self) -> Tensor:
        """The second moments about the mean, [size, size]."""
        return self.product - self.mean.outer(self.mean)


class ModelMoments(NamedTuple):
    """Moments of one model, in float64.

    Attributes:
        heads: Of each layer, of what the heads give to the output projection.
        neurons: Of each layer, of what the feed-forward neurons give to their output projection.
        norms: Of each LayerNorm by name, of the residual stream as it is before the norm's own scale and shift.
    """

    heads: list[Moments]
    neurons: list[Moments]
    norms: dict[str, Moments]


class _Sum:
    """Adds up vectors, [..., size] at a time, in double precision: what is redundant shows in tiny differences."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def add(self, vectors: Tensor) -> None:
        rows = vectors.detach().double().flatten(0, -2)
        self.count += len(rows)
        self.first = self.first + rows.sum(0)
        self.second = self.second + rows.T @ rows

    def moments(self) -> Moments:
        return Moments(torch.as_tensor(self.first) / self.count, torch.as_tensor(self.second) / self.count)


def norm_modules(model: GPT2LMHeadModel) -> dict[str, nn.LayerNorm]:
    """The LayerNorms by name, in the order in which they are applied."""
    body = model.transformer
    found = {f"h.{n}.{name}": getattr(block, name) for n, block in enumerate(body.h) for name in ("ln_1", "ln_2")}
    return {**found, "ln_f": body.ln_f}


def model_moments(model: GPT2LMHeadModel, windows: Windows) -> ModelMoments:
    """The moments of a model on windows of token ids, [windows, window]."""
    blocks = list(model.transformer.h)
    heads, neurons = [_Sum() for _ in blocks], [_Sum() for _ in blocks]
    norms = {name: _Sum() for name in norm_modules(model)}
    taps = [(block.attn.c_proj, _input_to(total)) for block, total in zip(blocks, heads, strict=True)]
    taps += [(block.mlp.c_proj, _input_to(total)) for block, total in zip(blocks, neurons, strict=True)]
    taps += [(norm, _normalized_to(norms[name])) for name, norm in norm_modules(model).items()]
    with _tapped(taps):
        run(model, windows)
    return ModelMoments(
        [total.moments() for total in heads],
        [total.moments() for total in neurons],
        {name: total.moments() for name, total in norms.items()},
    )


def run(model: GPT2LMHeadModel, windows: Windows) -> None:
    """Run a model without its head over windows, for what hooks see."""
    model.eval()
    with torch.no_grad():
        for start in range(0, len(windows), _WINDOWS_AT_ONCE):
            ids = torch.from_numpy(windows[start : start + _WINDOWS_AT_ONCE].astype(np.int64))
            model.transformer(input_ids=ids, use_cache=False)


Hook = Callable[[nn.Module, Any], None]


def _input_to(total: _Sum) -> Hook:
    return lambda _, inputs: total.add(inputs[0])


def _normalized_to(total: _Sum) -> Hook:
    def add(norm: Any, inputs: Any) -> None:
        total.add(nn.functional.layer_norm(inputs[0], norm.normalized_shape, eps=norm.eps))

    return add


@contextmanager
def _tapped(taps: list[tuple[nn.Module, Hook]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in taps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
