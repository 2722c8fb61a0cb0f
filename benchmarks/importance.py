"""How well criteria of importance choose what to remove from the models that ship: the table of docs/compression.md.

    python -m benchmarks.importance                       # every model; on two cores an hour, with --distill 24 two
    python -m benchmarks.importance --model bundled --kind neurons --steps 0

Of each kind of structure the same number is removed by every criterion. The loss (nats per token, held-out text) is
that right after the cut, with our repair of what remains, after some training steps of what was cut, and, with
`--distill`, after as many steps of distillation. Ours is always repaired.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

from slimline.storage.paths import PREBUILT
from slimline.tasks.data.slices import prepare_slice
from slimline.tasks.models.bases import make_base, unpack_prebuilt
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.pruning.cuts import Cutter, rank_layers, without_layers
from slimline.tasks.pruning.moments import model_moments
from slimline.tasks.pruning.residual import channel_map, fold_norms, norm_ratios, principal_map
from slimline.tasks.pruning.structures import (
    Member,
    Selection,
    channel_members,
    extract_model,
    group_norms,
    head_members,
    neuron_members,
)
from slimline.tasks.pruning.trials import TrialSetup, train_briefly, trial_setup
from slimline.tasks.specs import BundledBase, Data, Distill, PrebuiltModel, Slim
from slimline.tasks.training.distill import distill
from slimline.tasks.training.training_loop import text_loss

if TYPE_CHECKING:  # before slimline.tasks, transformers would print torchao's warnings
    from transformers import GPT2LMHeadModel

KINDS = ("neurons", "heads", "channels", "layers")
OURS = "ours"
CRITERIA = ("random", "magnitude", "activation", "Taylor", OURS)
SEEDS = 5
_DATA = Data(train_files=400, dev_files=60, samples=1)

app = typer.Typer(add_completion=False)

Scores = Callable[["GPT2LMHeadModel", TrialSetup], list[Tensor]]
"""Of each layer (of channels: of the only group) the importance of its structures, [structures]."""
Mapping = Callable[["GPT2LMHeadModel", int], Tensor]
"""From a model and a number of channels to what makes those of its own, [channels, fewer channels]."""


class Cut(NamedTuple):
    """A model that a criterion has cut, and where there is one the same with our repair."""

    kind: str
    criterion: str
    model: GPT2LMHeadModel
    repaired: GPT2LMHeadModel | None = None


# --------------------------------------------------------------------------------------------------------------- scores


def magnitude(kind: str) -> Scores:
    """Root mean square of a structure's weights."""
    return lambda model, _: [group_norms(members) for members in _members(model, kind)]


def chance(kind: str, seed: int) -> Scores:
    """Random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return lambda model, _: [torch.rand(len(group_norms(each)), generator=generator) for each in _members(model, kind)]


def activation(kind: str) -> Scores:
    """Standard deviation of what a structure gives to its output projection, times the norm of its weights there.

    As Minitron (arXiv:2407.14679) ranks by activations; of channels, the root mean square behind the LayerNorms.
    """

    def scores(model: GPT2LMHeadModel, setup: TrialSetup) -> list[Tensor]:
        moments = model_moments(model, setup.calibration)
        if kind == "channels":
            return [sum(each.product.diagonal() for each in moments.norms.values()).float()]
        found = []
        for block, heads, neurons in zip(model.transformer.h, moments.heads, moments.neurons, strict=True):
            projection, inputs = (block.mlp.c_proj, neurons) if kind == "neurons" else (block.attn.c_proj, heads)
            each = inputs.covariance().diagonal().float() * projection.weight.detach().square().sum(1)
            found.append(each if kind == "neurons" else each.view(model.config.n_head, -1).sum(1))
        return found

    return scores


def taylor(kind: str) -> Scores:
    """First-order Taylor: what the loss would change by, summed over a structure's weights, squared over windows.

    Molchanov et al. 2019 (arXiv:1906.10771); LLM-Pruner (arXiv:2305.11627) uses it for coupled structures.
    """

    def scores(model: GPT2LMHeadModel, setup: TrialSetup) -> list[Tensor]:
        model = copy.deepcopy(model)
        model.loss_type = "ForCausalLM"
        total: list[Tensor] = [torch.zeros(())] * len(_members(model, kind))
        for start in range(len(setup.calibration)):
            model.zero_grad(set_to_none=True)
            text_loss(model, setup.calibration[start : start + 1]).backward()
            for number, members in enumerate(_members(model, kind)):
                change = torch.zeros(())
                for member in members:
                    product = (member.tensor.grad * member.tensor.detach()).view(member.view)
                    change = change + product.sum([dim for dim in range(product.ndim) if dim != member.dim])
                total[number] = total[number] + change.square()
        return total

    return scores


def _members(model: GPT2LMHeadModel, kind: str) -> list[list[Member]]:
    if kind == "channels":
        return [channel_members(model)]
    blocks = list(model.transformer.h)
    return [neuron_members(b) if kind == "neurons" else head_members(b, model.config.n_head) for b in blocks]


# ----------------------------------------------------------------------------------------------------------------- cuts


def cuts(model: GPT2LMHeadModel, kind: str, setup: TrialSetup, criteria: Sequence[str] = CRITERIA) -> Iterator[Cut]:
    """The model without half its neurons, a quarter of its heads or channels, or one layer, by each criterion."""
    if kind == "layers":
        yield from (cut for cut in _layer_cuts(model, setup) if cut.criterion.split()[0] in criteria)
        return
    ways: dict[str, Scores] = {f"random {seed}": chance(kind, seed) for seed in range(SEEDS)}
    ways |= {"magnitude": magnitude(kind), "activation": activation(kind), "Taylor": taylor(kind)}
    cutter = Cutter(model, range(model.config.n_layer), setup.calibration, _half(model))
    for name in [name for name in ways if name.split()[0] in criteria]:
        scores = ways[name](model, setup)
        if kind == "channels":
            yield Cut(kind, name, _narrow(model, cutter, setup, _channels(scores[0])))
        else:
            yield Cut(kind, name, *_cut_by(model, kind, scores, cutter))
    if OURS in criteria:
        yield Cut(kind, OURS, *_ours(model, kind, cutter, setup))


def _can_lose(model: GPT2LMHeadModel, kind: str) -> bool:
    """Whether there is one to spare: of a model with one head that is its only one, and so are its channels."""
    counts = {"heads": model.config.n_head, "channels": model.config.n_head, "layers": model.config.n_layer}
    return bool(counts.get(kind, 2) > 1)


def _half(model: GPT2LMHeadModel) -> int:
    return int(model.transformer.h[0].mlp.c_proj.weight.shape[0]) // 2


def _fewer_heads(model: GPT2LMHeadModel) -> int:
    heads = int(model.config.n_head)
    return heads - max(1, heads // 4)


def _cut_by(
    model: GPT2LMHeadModel, kind: str, scores: Sequence[Tensor], cutter: Cutter
) -> tuple[GPT2LMHeadModel, GPT2LMHeadModel]:
    """The model with the neurons or heads of the highest scores, as it is, and repaired."""
    kept = [_best(one, _half(model) if kind == "neurons" else _fewer_heads(model)) for one in scores]
    heads, neurons = _every(model)
    repaired = cutter.keep(heads, kept) if kind == "neurons" else cutter.keep(kept, neurons)
    return _only(model, kind, kept), _only(repaired.model, kind, kept)


def _ours(
    model: GPT2LMHeadModel, kind: str, cutter: Cutter, setup: TrialSetup
) -> tuple[GPT2LMHeadModel, GPT2LMHeadModel | None]:
    if kind == "channels":
        return _narrow(model, cutter, setup, lambda pruned, count: _principal(pruned, count, setup)), None
    heads, inner = model.config.n_head, 2 * _half(model)
    if kind == "neurons":
        pruned = cutter.pruned(heads, inner // 2)
        kept = pruned.neurons
    else:
        pruned = cutter.pruned(_fewer_heads(model), inner)
        kept = pruned.heads
    cut = _only(pruned.model, kind, kept)
    return cut, cut


def _every(model: GPT2LMHeadModel) -> tuple[list[Tensor], list[Tensor]]:
    """All heads and all neurons of each layer."""
    layers = model.config.n_layer
    return [torch.arange(model.config.n_head)] * layers, [torch.arange(2 * _half(model))] * layers


def _only(model: GPT2LMHeadModel, kind: str, kept: Sequence[Tensor]) -> GPT2LMHeadModel:
    """The model without its other neurons or heads; heads stay as zeros: no stock model has fewer of the same width."""
    heads, _ = _every(model)
    if kind == "neurons":
        layers = list(range(model.config.n_layer))
        return extract_model(model, Selection(layers, torch.eye(model.config.n_embd), heads, list(kept)))
    found = copy.deepcopy(model)
    for block, one in zip(found.transformer.h, kept, strict=True):
        _remove_heads(block, torch.tensor(sorted(set(range(len(heads[0]))) - set(one.tolist()))), len(heads[0]))
    return found


def _channels(scores: Tensor) -> Mapping:
    """A map to the channels of the highest scores."""
    return lambda model, count: channel_map(_best(scores, count), model.config.n_embd)


def _narrow(model: GPT2LMHeadModel, cutter: Cutter, setup: TrialSetup, mapping_of: Mapping) -> GPT2LMHeadModel:
    """The model with fewer channels, and heads: a stock one loses them together. The heads are always the same."""
    heads = _fewer_heads(model)
    pruned = cutter.pruned(heads, 2 * _half(model))
    mapping = mapping_of(pruned.model, heads * model.config.n_embd // model.config.n_head)
    ratios = norm_ratios(model_moments(pruned.model, setup.calibration).norms, mapping)
    selection = Selection(list(range(model.config.n_layer)), mapping, pruned.heads, pruned.neurons)
    return extract_model(pruned.model, selection, ratios)


def _principal(model: GPT2LMHeadModel, channels: int, setup: TrialSetup) -> Tensor:
    fold_norms(model)
    return principal_map(model_moments(model, setup.calibration).norms, channels)


def _layer_cuts(model: GPT2LMHeadModel, setup: TrialSetup) -> Iterator[Cut]:
    layers = range(model.config.n_layer)
    norms = [sum(float(w.detach().square().sum()) for w in block.parameters()) for block in model.transformer.h]
    chosen = {f"random {layer}": layer for layer in layers}
    chosen |= {"magnitude": min(layers, key=norms.__getitem__)}
    chosen |= {OURS: rank_layers(model, setup.loss, fewest=len(layers) - 1)[0]}
    for name, gone in chosen.items():
        yield Cut("layers", name, without_layers(model, [layer for layer in layers if layer != gone]))


def _best(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _remove_heads(block: nn.Module, heads: Tensor, total: int) -> None:
    """Set values and output weights of heads to zero: without either the other has no gradient, and stays zero."""
    weight, bias, output = head_members(block, total)
    with torch.no_grad():
        weight.tensor.view(weight.view)[:, 2, heads] = 0.0
        bias.tensor.view(bias.view)[2, heads] = 0.0
        output.tensor.view(output.view)[heads] = 0.0


# --------------------------------------------------------------------------------------------------------------- report


class Losses(NamedTuple):
    """Losses of a cut model: as it is, repaired, after training steps, and after distillation."""

    cut: float | None
    repaired: float | None
    trained: float | None
    distilled: float | None


def _mean(many: Sequence[Losses]) -> Losses:
    """Of each loss the mean over several cuts, which all have it or none."""
    columns = list(zip(*many, strict=True))
    return Losses(*(None if None in column else fmean(column) for column in columns))


def _measured(cut: Cut, setup: TrialSetup, source: Path, slice_dir: Path, distill_steps: int) -> Losses:
    trained = distilled = None
    if setup.steps:
        copied = copy.deepcopy(cut.model)
        train_briefly(copied, setup.train, setup.steps)
        trained = setup.loss(copied)
    if distill_steps:
        distilled = _distilled(cut.model, source, slice_dir, distill_steps)
    repaired = None if cut.repaired is None else setup.loss(cut.repaired)
    return Losses(setup.loss(cut.model), repaired, trained, distilled)


def _distilled(model: GPT2LMHeadModel, source: Path, slice_dir: Path, steps: int) -> float:
    spec = Distill(minutes=1e4, max_steps=steps, batch_size=8, learning_rate=3e-3, muon_learning_rate=6e-3)
    with tempfile.TemporaryDirectory() as directory:
        student, target, work = (Path(directory) / name for name in ("student", "target", "work"))
        student.mkdir()
        save_gpt2(model, source, student)
        return float(distill(spec, student, source, slice_dir, target, work)["dev_loss"])


def _models(names: Sequence[str], slice_dir: Path, directory: Path) -> Iterator[tuple[str, Path]]:
    base = directory / "bundled"
    base.mkdir()
    make_base(BundledBase(), slice_dir, base)
    for name in names:
        path = base
        if name != "bundled":
            path = directory / name
            path.mkdir()
            unpack_prebuilt(base, path, PrebuiltModel.model_validate({"name": name}))
        yield name, path


def shipped() -> list[str]:
    """The models that ship."""
    return ["bundled", *sorted(path.name for path in PREBUILT.iterdir() if path.is_dir())]


def _choice(names: Sequence[str]) -> Any:
    """An option of which every value is one of these names."""

    def check(given: list[str] | None) -> list[str] | None:
        for name in given or []:
            if name not in names:
                raise typer.BadParameter(f"{name!r}; allowed: {', '.join(names)}")
        return given

    return typer.Option(callback=check, help=f"One of {', '.join(names)}; several; all.")


@app.command()
def main(
    model: Annotated[list[str] | None, _choice(shipped())] = None,
    kind: Annotated[list[str] | None, _choice(KINDS)] = None,
    criterion: Annotated[list[str] | None, _choice(CRITERIA)] = None,
    steps: Annotated[int, typer.Option(min=0, help="Training steps after the cut.")] = 24,
    distill_steps: Annotated[int, typer.Option("--distill", min=0, help="Steps of distillation; 0: none.")] = 0,
) -> None:
    """Compare criteria of importance, and print a Markdown table."""
    print("| model | removed | criterion | loss | repaired | after training | after distillation |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "slice").mkdir()
        prepare_slice(_DATA, directory / "slice")
        for name, path in _models(model or shipped(), directory / "slice", directory):
            whole = load_gpt2(path)
            setup = trial_setup(Slim(sparsity=0.5, trial_steps=steps), directory / "slice", path)
            _print_row(name, "nothing", "", Losses(setup.loss(whole), None, None, None))
            for each in kind or KINDS:
                if not _can_lose(whole, each):
                    print(f"{name}: none of its {each} can be removed: it has one head or layer", file=sys.stderr)
                    continue
                by_criterion: dict[str, list[Losses]] = {}
                for cut in cuts(whole, each, setup, criterion or CRITERIA):
                    losses = _measured(cut, setup, path, directory / "slice", distill_steps)
                    by_criterion.setdefault(cut.criterion.split()[0], []).append(losses)
                for chosen_by, found in by_criterion.items():
                    _print_row(name, each, chosen_by, _mean(found))


def _print_row(model: str, kind: str, criterion: str, losses: Losses) -> None:
    cells = ["" if loss is None else f"{loss:.3f}" for loss in losses]
    print(f"| {' | '.join([model, kind, criterion, *cells])} |", flush=True)


if __name__ == "__main__":
    app()
