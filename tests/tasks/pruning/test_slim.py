from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from slimline.tasks.measurement.size import count_parameters
from slimline.tasks.pruning.residual import channel_map
from slimline.tasks.pruning.shapes import Shape, parameters
from slimline.tasks.pruning.slim import slim
from slimline.tasks.pruning.structures import (
    Selection,
    channel_members,
    extract_model,
    group_norms,
    head_members,
    live_selection,
    neuron_members,
)
from slimline.tasks.specs import Slim
from tests.tasks.bpe_models import VOCABULARY

WIDTH, HEADS, INNER, LAYERS = 32, 4, 64, 3
EACH = WIDTH // HEADS


def gpt2(**changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 96, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    config = GPT2Config(**(sizes | {"n_inner": INNER, "initializer_range": 0.2} | changes))
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn_like(weight)
    return model


def plant(model: GPT2LMHeadModel, channels: list[int], heads: list[list[int]], neurons: list[list[int]]) -> None:
    """Kill these structures, and give the living channels of all that writes to the stream the mean zero."""
    live = [channel for channel in range(WIDTH) if channel not in channels]
    body = model.transformer
    with torch.no_grad():
        for number, block in enumerate(body.h):
            block.mlp.c_fc.weight[:, neurons[number]] = 0
            block.mlp.c_fc.bias[neurons[number]] = 0
            for head in heads[number]:
                block.attn.c_proj.weight[head * EACH : (head + 1) * EACH] = 0
        writers = [body.wte.weight, body.wpe.weight]
        writers += [tensor for block in body.h for tensor in (block.attn.c_proj.weight, block.mlp.c_proj.weight)]
        writers += [tensor[None] for block in body.h for tensor in (block.attn.c_proj.bias, block.mlp.c_proj.bias)]
        for writer in writers:
            writer[:, channels] = 0
            writer[:, live] -= writer[:, live].mean(1, keepdim=True)
        for norm in [body.ln_f, *(norm for block in body.h for norm in (block.ln_1, block.ln_2))]:
            norm.weight[channels] = 0
            norm.bias[channels] = 0
        for block in body.h:
            block.attn.c_attn.weight[channels] = 0
            block.mlp.c_fc.weight[channels] = 0


def logits(model: GPT2LMHeadModel) -> torch.Tensor:
    ids = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(ids).logits
    return found


def saved(model: GPT2LMHeadModel, directory: Path, bpe_model_dir: Path) -> Path:
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes((bpe_model_dir / "tokenizer.json").read_bytes())
    return directory


PLANTED_CHANNELS = [1, 3, 5, 11, 17, 18, 20, 31]
PLANTED_HEADS = [[0], [3], [1]]
PLANTED_NEURONS = [[0, 5, 63], [7, 8, 9], [30, 31, 33]]


def test_what_is_planted_dead_is_removed_and_nothing_else(
    tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    model = gpt2()
    plant(model, PLANTED_CHANNELS, PLANTED_HEADS, PLANTED_NEURONS)
    source = saved(model, tmp_path / "planted", bpe_model_dir)
    expected = Shape(LAYERS, HEADS - 1, WIDTH - EACH, INNER - 3, VOCABULARY, 96)
    spec = Slim(params_m=parameters(expected) / 1e6)
    notes = slim(spec, source, bpe_slice_dir, tmp_path / "slim")
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    torch.testing.assert_close(logits(small), logits(model), atol=1e-5, rtol=0)
    assert notes["shape"] == expected._asdict()
    assert notes["dead"] == {"layers": 0, "heads": 1, "channels": 8, "neurons": 3}
    survivors = [channel for channel in range(WIDTH) if channel not in PLANTED_CHANNELS]
    assert torch.equal(small.transformer.wte.weight, model.transformer.wte.weight[:, survivors])
    for number, block in enumerate(small.transformer.h):
        neurons = [neuron for neuron in range(INNER) if neuron not in PLANTED_NEURONS[number]]
        original = model.transformer.h[number].mlp.c_proj.weight[neurons][:, survivors]
        assert torch.equal(block.mlp.c_proj.weight, original)


def test_a_dead_layer_goes_whole(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    model = gpt2()
    with torch.no_grad():
        for projection in (model.transformer.h[1].attn.c_proj, model.transformer.h[1].mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    source = saved(model, tmp_path / "planted", bpe_model_dir)
    spec = Slim(params_m=count_parameters(source).total / 1e6 - 0.001)
    notes = slim(spec, source, bpe_slice_dir, tmp_path / "slim")
    assert notes["dead"] == {"layers": 1, "heads": 0, "channels": 0, "neurons": 0}
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "slim")
    torch.testing.assert_close(logits(small), logits(model), atol=1e-5, rtol=0)


def test_unequal_numbers_of_dead_leave_what_a_stock_model_needs(
    tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    model = gpt2()
    plant(model, [], [[0], [], []], [[0, 1], [2], []])
    live = live_selection(model)
    assert [len(heads) for heads in live.heads] == [3, 4, 4]
    source = saved(model, tmp_path / "planted", bpe_model_dir)
    notes = slim(Slim(sparsity=0.001, importance="magnitude"), source, bpe_slice_dir, tmp_path / "slim")
    assert notes["dead"] == {"layers": 0, "heads": 0, "channels": 0, "neurons": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, bpe_slice_dir: Path, bpe_model_dir: Path) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("trained")
    spec = Slim(sparsity=0.4, calibration_windows=8, window=64, trial_steps=2)
    return directory / "slim", slim(spec, bpe_model_dir, bpe_slice_dir, directory / "slim")


def test_the_target_is_met_by_a_dense_stock_checkpoint(trained: tuple[Path, Any], bpe_model_dir: Path) -> None:
    directory, notes = trained
    before, after = count_parameters(bpe_model_dir), count_parameters(directory)
    assert after.total <= 0.6 * before.total
    assert after.total == notes["parameters"]
    assert after.nonzero > 0.98 * after.total  # shifts of LayerNorms may be zero: they are in the biases behind them
    _, found = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert len(notes["trials"]) > 1
    with safe_open(directory / "model.safetensors", framework="numpy") as file:
        assert all(file.get_slice(name).get_dtype() == "F32" for name in file.keys())  # noqa: SIM118


def test_speedup_asks_the_latency_table(
    tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Table:
        def seconds(self, shape: Shape, prompt_tokens: float, new_tokens: float) -> float:
            return float(shape.layers)

    monkeypatch.setattr("slimline.tasks.pruning.slim.latency_table", lambda *_: Table())
    notes = slim(Slim(speedup=2, importance="magnitude"), bpe_model_dir, bpe_slice_dir, tmp_path / "slim")
    assert notes["shape"]["layers"] == 1


@pytest.mark.parametrize("target", [{}, {"sparsity": 0.5, "params_m": 1.0}])
def test_exactly_one_target(target: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sparsity, params_m, speedup"):
        Slim(**target)


def test_too_little_calibration_is_refused_with_both_numbers(
    tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    spec = Slim(sparsity=0.4, calibration_windows=4096, window=64)
    with pytest.raises(ValueError, match=r"slim.calibration_windows.* 4288 windows of 64 .* only \d+"):
        slim(spec, bpe_model_dir, bpe_slice_dir, tmp_path / "slim")


def test_windows_longer_than_the_positions_are_refused(
    tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    with pytest.raises(ValueError, match=r"window: 512; .* 96 positions"):
        slim(Slim(sparsity=0.4, window=512), bpe_model_dir, bpe_slice_dir, tmp_path / "slim")


def test_a_target_out_of_reach_names_its_field(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"params_m.*1e-06"):
        slim(Slim(params_m=1e-6), bpe_model_dir, bpe_slice_dir, tmp_path / "slim")


def test_what_can_be_reached_is_said(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"slim.sparsity: 0\.999999; .* reached is (0\.\d+)") as refused:
        slim(Slim(sparsity=0.999999), bpe_model_dir, bpe_slice_dir, tmp_path / "slim")
    reached = float(str(refused.value).split()[-1])
    notes = slim(Slim(sparsity=reached - 1e-3, importance="magnitude"), bpe_model_dir, bpe_slice_dir, tmp_path / "slim")
    assert notes["parameters"] <= (1 - reached + 1e-3) * count_parameters(bpe_model_dir).total


def test_a_target_above_the_model_is_refused(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    whole = count_parameters(bpe_model_dir).total / 1e6
    with pytest.raises(ValueError, match=rf"slim.params_m: 100; .* {whole:g}"):
        slim(Slim(params_m=100), bpe_model_dir, bpe_slice_dir, tmp_path / "slim")


def test_an_untied_head_counts(tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path) -> None:
    source = saved(gpt2(tie_word_embeddings=False), tmp_path / "untied", bpe_model_dir)
    notes = slim(Slim(sparsity=0.2, importance="magnitude"), source, bpe_slice_dir, tmp_path / "slim")
    assert notes["parameters"] == count_parameters(tmp_path / "slim").total <= 0.8 * count_parameters(source).total


@pytest.mark.parametrize("importance", ["magnitude", "brain-surgeon"])
def test_dead_neurons_leave_the_shapes_that_are_no_larger(
    importance: Literal["magnitude", "brain-surgeon"], tmp_path: Path, bpe_model_dir: Path, bpe_slice_dir: Path
) -> None:
    model = gpt2(n_inner=128)
    dead = list(range(80))
    plant(model, [], [[], [], []], [dead, dead, dead])
    source = saved(model, tmp_path / "planted", bpe_model_dir)
    spec = Slim(sparsity=0.6, importance=importance, calibration_windows=8, window=64, trial_steps=0)
    notes = slim(spec, source, bpe_slice_dir, tmp_path / "slim")
    assert notes["dead"]["neurons"] == 80
    assert notes["shape"]["inner"] <= 48
    assert notes["parameters"] <= 0.4 * count_parameters(source).total
    if importance == "brain-surgeon":
        assert notes["whole"] > 0
        assert len(notes["shapes"]) > 1


# --------------------------------------------------------------------------------------------------------- structures


def test_norms_count_every_weight_once() -> None:
    model = gpt2()
    model.requires_grad_(False)
    total = sum(float(weight.square().sum()) for weight in model.parameters())
    members = channel_members(model)
    in_channels = float((group_norms(members) ** 2).sum()) * sum(member.width for member in members)
    others = 0.0
    for block in model.transformer.h:
        others += sum(float(t.square().sum()) for t in (block.attn.c_attn.bias, block.mlp.c_fc.bias))
    assert in_channels == pytest.approx(total - others, rel=1e-5)


def test_norms_by_hand() -> None:
    model = gpt2()
    block = model.transformer.h[0]
    attention, mlp = block.attn, block.mlp
    each = [attention.c_attn.weight[:, part * WIDTH + EACH : part * WIDTH + 2 * EACH] for part in range(3)]
    each += [attention.c_attn.bias[part * WIDTH + EACH : part * WIDTH + 2 * EACH] for part in range(3)]
    each.append(attention.c_proj.weight[EACH : 2 * EACH])
    rms = torch.cat([part.flatten() for part in each]).square().mean().sqrt()
    torch.testing.assert_close(group_norms(head_members(block, HEADS))[1], rms)
    neuron = torch.cat([mlp.c_fc.weight[:, 5], mlp.c_fc.bias[5:6], mlp.c_proj.weight[5]]).square().mean().sqrt()
    torch.testing.assert_close(group_norms(neuron_members(block))[5], neuron)


def test_taking_everything_changes_nothing() -> None:
    model = gpt2()
    every = torch.arange
    kept = Selection(list(range(LAYERS)), torch.eye(WIDTH), [every(HEADS)] * LAYERS, [every(INNER)] * LAYERS)
    assert torch.equal(logits(extract_model(model, kept)), logits(model))


def test_no_stock_model_has_layers_of_different_sizes() -> None:
    every = torch.arange
    with pytest.raises(ValueError, match=r"different \(heads, neurons\)"):
        extract_model(gpt2(), Selection([0, 1], torch.eye(WIDTH), [every(HEADS)] * 2, [every(INNER), every(8)]))
    with pytest.raises(ValueError, match=r"31 .*4 .*8.*32"):
        extract_model(gpt2(), Selection([0], channel_map(every(31), WIDTH), [every(HEADS)], [every(INNER)]))
