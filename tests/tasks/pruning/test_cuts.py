"""Cuts of models in which superfluous structures were planted, so that the best cut is known."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from slimline.tasks.data.packing import Windows
from slimline.tasks.pruning.cuts import Cutter, rank_layers, without_layers
from slimline.tasks.pruning.moments import Moments, model_moments, norm_modules
from slimline.tasks.pruning.residual import channel_map, fold_norms, mean_zero_basis, norm_ratios, principal_map
from slimline.tasks.pruning.shapes import Shape, parameters
from slimline.tasks.pruning.structures import Selection, extract_model
from slimline.tasks.pruning.trials import TrialSetup, best_cut

VOCABULARY, POSITIONS = 120, 48
SMALL = Shape(2, 3, 24, 40, VOCABULARY, POSITIONS)
LARGE = Shape(3, 4, 32, 64, VOCABULARY, POSITIONS)
EACH = 8


def gpt2(shape: Shape, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner,
        initializer_range=0.3,
        **{f"{role}_token_id": None for role in ("bos", "eos", "pad")},
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn_like(weight)
        model.transformer.ln_f.weight.fill_(1.3)  # a rotation leaves equal entries as they are
    fold_norms(model)
    return model


def wider(small: GPT2LMHeadModel, shape: Shape) -> GPT2LMHeadModel:
    """The same function of more channels, heads and neurons, none of which is dead."""
    model = gpt2(shape, seed=1)
    generator = torch.Generator().manual_seed(2)
    # The vector of equal entries becomes one of equal entries; all else is rotated at random.
    narrow, wide = (mean_zero_basis(width).float() for width in (small.config.n_embd, shape.width))
    rotation = torch.linalg.qr(torch.randn(shape.width - 1, small.config.n_embd - 1, generator=generator))[0]
    widen = narrow @ rotation.T @ wide.T + 1 / (small.config.n_embd * shape.width) ** 0.5
    body, source = model.transformer, small.transformer
    scale = (small.config.n_embd / shape.width) ** 0.5
    with torch.no_grad():
        for name in ("wte", "wpe"):
            getattr(body, name).weight.copy_(getattr(source, name).weight @ widen)
        body.ln_f.weight.fill_(float(source.ln_f.weight[0]) * scale)
        body.ln_f.bias.copy_(source.ln_f.bias @ widen)
        for block, old in zip(body.h, source.h, strict=False):
            for norm in (block.ln_1, block.ln_2):
                norm.weight.fill_(scale)
                norm.bias.zero_()
            _copy_heads(block, old, widen)
            _copy_neurons(block, old, widen)
        model.config.layer_norm_epsilon = small.config.layer_norm_epsilon * scale**2
        for norm in model.modules():
            if isinstance(norm, torch.nn.LayerNorm):
                norm.eps = model.config.layer_norm_epsilon
        for block in body.h[len(source.h) :]:  # a layer that adds almost nothing
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.mul_(1e-4)
                projection.bias.mul_(1e-4)
    return model


def _copy_heads(block: Any, old: Any, widen: torch.Tensor) -> None:
    """The old heads, and a copy of the first one with which it shares its output."""
    width, heads = old.attn.c_proj.weight.shape[0], old.attn.c_proj.weight.shape[0] // EACH
    sources = [*range(heads), *[0] * (block.attn.c_proj.weight.shape[0] // EACH - heads)]
    columns = torch.tensor([head * EACH + offset for head in sources for offset in range(EACH)])
    all_columns = torch.cat([columns + part * width for part in range(3)])
    block.attn.c_attn.weight.copy_(widen.T @ old.attn.c_attn.weight[:, all_columns])
    block.attn.c_attn.bias.copy_(old.attn.c_attn.bias[all_columns])
    shares = torch.tensor([1 / sources.count(head) for head in sources]).repeat_interleave(EACH)
    block.attn.c_proj.weight.copy_((old.attn.c_proj.weight[columns] * shares[:, None]) @ widen)
    block.attn.c_proj.bias.copy_(old.attn.c_proj.bias @ widen)


def _copy_neurons(block: Any, old: Any, widen: torch.Tensor) -> None:
    """The old neurons; copies of the first ones, which share their output; and eight that are always the same."""
    inner, total = old.mlp.c_fc.weight.shape[1], block.mlp.c_fc.weight.shape[1]
    sources = [*range(inner), *range(total - inner)]
    shares = torch.tensor([1 / sources.count(neuron) for neuron in sources])
    block.mlp.c_fc.weight.copy_(widen.T @ old.mlp.c_fc.weight[:, sources])
    block.mlp.c_fc.bias.copy_(old.mlp.c_fc.bias[sources])
    outputs = old.mlp.c_proj.weight[sources] * shares[:, None]
    constant = torch.arange(total - 8, total)
    outputs[[sources[index] for index in constant]] *= 2  # their copies are no longer there
    block.mlp.c_fc.weight[:, constant] = 0.0
    block.mlp.c_proj.weight.copy_(outputs @ widen)
    block.mlp.c_proj.bias.copy_(old.mlp.c_proj.bias @ widen)
    at_rest = torch.nn.functional.gelu(block.mlp.c_fc.bias[constant], approximate="tanh")
    block.mlp.c_proj.bias.sub_(at_rest @ block.mlp.c_proj.weight[constant])


def windows(count: int = 24) -> Windows:
    return np.random.default_rng(0).integers(0, VOCABULARY, (count, POSITIONS)).astype(np.int32)


def logits(model: GPT2LMHeadModel) -> torch.Tensor:
    ids = torch.from_numpy(windows(60)[-8:].astype(np.int64))
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(ids).logits
    return found


def distance(model: GPT2LMHeadModel, other: GPT2LMHeadModel) -> float:
    """Root mean square difference of the logits, as a share of their own."""
    before = logits(model)
    return float((logits(other) - before).square().mean().sqrt() / before.square().mean().sqrt())


@pytest.fixture(scope="module")
def small() -> GPT2LMHeadModel:
    return gpt2(SMALL)


@pytest.fixture(scope="module")
def planted(small: GPT2LMHeadModel) -> GPT2LMHeadModel:
    return wider(small, LARGE)


def test_what_is_planted_computes_the_same(small: GPT2LMHeadModel, planted: GPT2LMHeadModel) -> None:
    assert distance(small, planted) < 1e-2
    assert distance(small, without_layers(planted, [0, 1])) < 1e-4


def test_the_superfluous_layer_is_ranked_first(small: GPT2LMHeadModel, planted: GPT2LMHeadModel) -> None:
    assert rank_layers(planted, lambda model: distance(small, model))[0] == 2
    assert len(planted.transformer.h) == 3


def test_the_cut_is_the_model_before_planting(small: GPT2LMHeadModel, planted: GPT2LMHeadModel) -> None:
    before = copy.deepcopy(planted.state_dict())
    cut = Cutter(planted, [0, 1], windows(), SMALL.inner).cut(SMALL)
    assert sum(weight.numel() for weight in cut.parameters()) == parameters(SMALL)
    assert distance(small, cut) < 5e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in planted.state_dict().items())


def test_the_best_shape_is_found_among_those_of_its_size(small: GPT2LMHeadModel, planted: GPT2LMHeadModel) -> None:
    setup = TrialSetup(0, windows(), windows(), spoken_by(small))
    others = [SMALL._replace(layers=3, heads=2, width=16), SMALL._replace(heads=4, width=32, inner=32)]
    found = best_cut(planted, [*others, SMALL], setup)
    assert {name: found.notes["shapes"][0][name] for name in SMALL._fields} == SMALL._asdict()
    assert distance(small, found.model) < 5e-3


def spoken_by(model: GPT2LMHeadModel) -> Windows:
    """Text of the model itself, of which no other model has a lower loss."""
    torch.manual_seed(0)
    first = torch.randint(0, VOCABULARY, (64, 1))
    text = model.generate(first, do_sample=True, max_length=POSITIONS, min_length=POSITIONS, pad_token_id=0)
    return np.asarray(text.numpy(), np.int32)


def test_chance_never_beats_the_choice_of_neurons_or_heads(planted: GPT2LMHeadModel) -> None:
    """Twenty random choices, each repaired as well."""
    cutter = Cutter(planted, [0, 1], windows(), 8)
    base = without_layers(planted, [0, 1])
    for goal in ((4, 24), (2, 64)):
        chance = [distance(base, random_choice(cutter, seed).pruned(*goal).model) for seed in range(20)]
        assert distance(base, cutter.pruned(*goal).model) < min(chance)


def random_choice(cutter: Cutter, seed: int) -> Cutter:
    generator = torch.Generator().manual_seed(seed)
    chosen = copy.copy(cutter)
    chosen._heads, chosen._neurons = (
        [one._replace(order=torch.randperm(len(one.order) + 1, generator=generator).tolist()[:-1]) for one in each]
        for each in (cutter._heads, cutter._neurons)
    )
    return chosen


def test_chance_never_beats_the_choice_of_channels(planted: GPT2LMHeadModel) -> None:
    base = without_layers(planted, [0, 1])
    moments = model_moments(base, windows()).norms
    chance = []
    for seed in range(20):
        channels = torch.randperm(32, generator=torch.Generator().manual_seed(seed))[:24].sort().values
        chance.append(distance(base, narrowed(base, channel_map(channels, 32), moments)))
    assert distance(base, narrowed(base, principal_map(moments, 24), moments)) < min(chance)


def narrowed(model: GPT2LMHeadModel, mapping: torch.Tensor, moments: dict[str, Moments]) -> GPT2LMHeadModel:
    selection = Selection([0, 1], mapping, [torch.arange(3)] * 2, [torch.arange(64)] * 2)
    return extract_model(model, selection, norm_ratios(moments, mapping))


@pytest.mark.parametrize("scale", [10.0, 1000.0])
def test_copies_with_large_outputs_that_cancel_are_merged(
    scale: float, small: GPT2LMHeadModel, planted: GPT2LMHeadModel
) -> None:
    model = copy.deepcopy(planted)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in model.transformer.h[:2]:
            for projection, first, second in ((block.mlp.c_proj, 0, SMALL.inner), (block.attn.c_proj, 0, SMALL.width)):
                size = 1 if projection is block.mlp.c_proj else EACH
                large = scale * float(projection.weight.std()) * torch.randn(size, LARGE.width, generator=generator)
                projection.weight[first : first + size] += large
                projection.weight[second : second + size] -= large
    pruned = Cutter(model, [0, 1], windows(), SMALL.inner).pruned(SMALL.heads, SMALL.inner)
    assert distance(without_layers(model, [0, 1]), pruned.model) < 1e-2
    assert distance(small, pruned.model) < 1e-2


def test_a_rotation_of_all_channels_changes_nothing(small: GPT2LMHeadModel) -> None:
    moments = model_moments(small, windows())
    mapping = principal_map(moments.norms, SMALL.width)
    torch.testing.assert_close(mapping.T @ mapping, torch.eye(SMALL.width), atol=1e-5, rtol=0)
    every = Selection([0, 1], mapping, [torch.arange(3)] * 2, [torch.arange(40)] * 2)
    rotated = extract_model(small, every, norm_ratios(moments.norms, mapping))
    assert distance(small, rotated) < 1e-4


def test_folding_the_norms_changes_nothing() -> None:
    model = gpt2(SMALL)
    with torch.no_grad():
        for norm in norm_modules(model).values():
            norm.weight.uniform_(0.5, 2.0)
            norm.bias.uniform_(-1.0, 1.0)
    before = logits(model)
    fold_norms(model)
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
