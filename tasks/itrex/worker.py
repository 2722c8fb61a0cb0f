"""What runs in ITREX's environment, as `python -P -I worker.py REQUEST.json`: one pruning, or one quantization.

It imports nothing of slimline, whose libraries are others there, and no library before it is asked to do something.
Tensors come and go as safetensors, everything else as JSON. Standard output has one JSON object a line, {"description",
"share"}, of how far the work is; what libraries print goes to standard error, and their scratch files into the current
directory.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

Report = Callable[[str, float], None]

WEIGHTS = "model.safetensors"
LOGITS = "logits.safetensors"
RESULT = "result.json"
TILE_ROWS = 4
"""Of a block of the pattern tile_pattern_4x1. It divides a matrix as it is stored, which for GPT-2's Conv1D is
[inputs, outputs]."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
# ITREX raises the sparsity at the beginning of each of its epochs. So these are tenths of the training here, however
# many passes over the data that is; and after seven of them the remaining weights recover.
_ROUNDS = 10
_PRUNING_ROUNDS = 7
_LOSS_POINTS = 50
# Adam's second moments start at zero, so that its first steps would be too long at the full rate.
_WARMUP_SHARE = 0.03


class Pruning(NamedTuple):
    """A request to train with NLPTrainer while its GroupLasso pruner sets blocks to zero.

    The result has `pruned` and `not_pruned`, names of matrices, and `loss_curve`, pairs [step, mean loss since the last
    pair].
    """

    model: str
    """Directory of a GPT-2 that transformers can load."""
    windows: str
    """A file with the tensor `train`, token ids [windows, window]."""
    max_steps: int
    """Optimizer steps."""
    batch_size: int
    """Windows of a step."""
    micro_batch: int
    """Windows that are computed at once, a divisor of that."""
    learning_rate: float
    """Of AdamW at its highest: it rises over 3 % of the steps, then falls linearly to zero."""
    sparsity: float
    """Share of each matrix that is to be zero."""
    alpha: float
    """The penalty adds alpha * weights / norm to the gradient of each block."""
    seed: int
    what: Literal["prune"] = "prune"


class Quantization(NamedTuple):
    """A request for NLPTrainer's post-training dynamic quantization, as it is by default.

    For each quantized module there are the tensors `<module>.weight` of integers, and `<module>.scales` and
    `<module>.zero_points`, one for each row. The result has `kinds`, "embedding" or "linear" by the name of a module.
    """

    model: str
    """Directory of a GPT-2 that transformers can load."""
    prompt: list[int]
    """Tokens; the file `LOGITS` will have what the result makes of them, [tokens, vocabulary]."""
    what: Literal["quantize"] = "quantize"


class Rounds:
    """A sampler: at each iteration the windows of the next round of a training, in one random order after the other."""

    def __init__(self, windows: int, of_round: int, seed: int) -> None:
        self._windows = windows
        self._of_round = of_round
        self._random = random.Random(seed)
        self._pass: list[int] = []

    def __len__(self) -> int:
        """Windows of a round."""
        return self._of_round

    def __iter__(self) -> Iterator[int]:
        """The windows of the next round."""
        for _ in range(self._of_round):
            self._pass = self._pass or self._random.sample(range(self._windows), self._windows)
            yield self._pass.pop()


def prune(request: Pruning, output: Path, report: Report) -> dict[str, Any]:
    """Do what the request says; the model's tensors are in `output`, by their names in it."""
    network = _load(request.model, report)
    from safetensors.torch import save_file

    trainer = _pruning_trainer(request, network, report)
    matrices = {name: weight for name, weight in network.named_parameters() if weight.ndim == 2}
    pruned = [name for name, weight in matrices.items() if len(weight) % TILE_ROWS == 0]
    trainer.prune(
        _pruning_config(request, pruned, _rounds(request)[0]),
        train_func=trainer.builtin_train_func,
        eval_func=lambda _: 0.0,  # only logged; who waits for the result measures it
    )
    save_file(
        {name: weight.detach().contiguous() for name, weight in trainer.model.named_parameters()}, output / WEIGHTS
    )
    # ITREX adds up the losses of the parts of a step.
    parts = request.batch_size // request.micro_batch
    curve = [[entry["step"], entry["loss"] / parts] for entry in trainer.state.log_history if "loss" in entry]
    return {"pruned": pruned, "not_pruned": [name for name in matrices if name not in pruned], "loss_curve": curve}


def _rounds(request: Pruning) -> tuple[int, int]:
    """How many rounds a training has, and how many steps each of them."""
    steps = -(-request.max_steps // _ROUNDS)
    return -(-request.max_steps // steps), steps


def _pruning_trainer(request: Pruning, network: Any, report: Report) -> Any:
    from safetensors.torch import load_file

    # NLPTrainer takes every process for one of several, and then accumulates gradients in a context of such a model.
    network.no_sync = nullcontext
    train = load_file(request.windows)["train"].long()
    order = Rounds(len(train), _rounds(request)[1] * request.batch_size, request.seed)
    trainer = _trainer_class(report)(
        model=network,
        args=_arguments(
            max_steps=request.max_steps,
            per_device_train_batch_size=request.micro_batch,
            gradient_accumulation_steps=request.batch_size // request.micro_batch,
            learning_rate=request.learning_rate,
            warmup_ratio=_WARMUP_SHARE,
            logging_steps=max(1, request.max_steps // _LOSS_POINTS),
            logging_nan_inf_filter=False,
            seed=request.seed,
        ),
        train_dataset=train,
        data_collator=_collate,
        callbacks=[_watcher(report)],
    )
    trainer._get_train_sampler = lambda: order
    return trainer


def _pruning_config(request: Pruning, names: list[str], rounds: int) -> Any:
    from intel_extension_for_transformers.transformers import PrunerConfig, PruningConfig

    epochs = [0, max(1, round(_PRUNING_ROUNDS / _ROUNDS * rounds)) - 1]
    pruner = PrunerConfig(
        epoch_range=epochs,
        target_sparsity_ratio=request.sparsity,
        prune_type="GroupLasso",
        names=names,
        parameters={"alpha": request.alpha},
    )
    pruner.pattern = f"tile_pattern_{TILE_ROWS}x1"  # which no argument sets
    return PruningConfig(
        pruner_config=[pruner], epoch_range=epochs, epochs=rounds, target_sparsity_ratio=request.sparsity
    )


def _watcher(report: Report) -> Any:
    """A callback that reports each step."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.logging_steps = args.logging_steps  # NLPTrainer forgets it, and would log each 500th step

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report("pruning by ITREX", state.global_step / state.max_steps)

    return Watcher()


def _collate(windows: list[Any]) -> dict[str, Any]:
    import torch

    tokens = torch.stack(windows)
    return {"input_ids": tokens, "labels": tokens}


def quantize(request: Quantization, output: Path, report: Report) -> dict[str, Any]:
    """Do what the request says; the tensors of the model and the logits are in `output`."""
    network = _load(request.model, report)
    import torch
    from safetensors.torch import save_file

    trainer_class = _trainer_class(report)
    from intel_extension_for_transformers.transformers import QuantizationConfig

    tensors = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    report("quantization by ITREX", 0.0)
    # One trial, of all that can be int8. Otherwise the library tries less of it until a metric on some data is met.
    os.environ["PERFORMANCE_ONLY"] = "1"
    trainer = trainer_class(model=network, args=_arguments())
    quantized = trainer.quantize(QuantizationConfig(approach="PostTrainingDynamic"))
    classes = {torch.ao.nn.quantized.Embedding: "embedding", torch.ao.nn.quantized.dynamic.Linear: "linear"}
    kinds = {name: classes[type(module)] for name, module in quantized.named_modules() if type(module) in classes}
    for name in kinds:
        tensors |= _integers(name, quantized.get_submodule(name).weight())
    with torch.no_grad():
        logits = quantized(torch.tensor([request.prompt])).logits[0]
    save_file(tensors, output / WEIGHTS)
    save_file({"logits": logits.contiguous()}, output / LOGITS)
    return {"kinds": kinds}


def _integers(name: str, weight: Any) -> dict[str, Any]:
    """The tensors that a quantized matrix consists of; the zero points of embeddings are fractions."""
    zeros = weight.q_per_channel_zero_points()
    return {
        f"{name}.weight": weight.int_repr(),
        f"{name}.scales": weight.q_per_channel_scales().float(),
        f"{name}.zero_points": zeros if zeros.is_floating_point() else zeros.int(),
    }


def _load(directory: str, report: Report) -> Any:
    """The model in fp32."""
    report("importing torch", 0.0)
    import torch

    report("importing transformers", 0.0)
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(directory, torch_dtype=torch.float32)


def _trainer_class(report: Report) -> Any:
    report("importing ITREX", 0.0)
    from intel_extension_for_transformers.transformers.trainer import NLPTrainer

    return NLPTrainer


def _arguments(**others: Any) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir="trainer",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **others,
    )


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that waits for it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process ended before the work began")


def main(path: Path) -> None:
    """Do what a file asks for: a JSON object with the fields of a request, `parent` (who waits), and `output`.

    `output` is an existing, empty directory. The result is written into it as the last file.
    """
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.loads(path.read_text(encoding="utf-8"))
    _die_with(asked.pop("parent"))
    os.environ.update(_OFFLINE)

    def report(description: str, share: float) -> None:
        print(json.dumps({"description": description, "share": share}), file=lines, flush=True)

    output = Path(asked.pop("output"))
    if asked["what"] == "prune":
        result = prune(Pruning(**asked), output, report)
    else:
        result = quantize(Quantization(**asked), output, report)
    (output / RESULT).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
