"""Post-training dynamic int8 by ITREX, as published.

ITREX quantizes embeddings and `nn.Linear`. GPT-2's projections are `Conv1D`, which it leaves in fp32; so the embeddings
and the head are in int8, each row with a scale of its own. torch's engine runs the result, with slimline's own torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slimline.tasks.itrex.environment import ItrexError, library_versions
from slimline.tasks.itrex.process import run_worker
from slimline.tasks.itrex.worker import LOGITS, WEIGHTS, Quantization
from slimline.tasks.models.int8_loading import load_quantized, save_quantized
from slimline.tasks.models.loading import load_gpt2, save_gpt2

_PROMPT = [5, 1, 4, 1, 3, 2]  # ids that every vocabulary has
_TOLERANCE = 1e-4


def quantize(model_dir: Path, target: Path) -> dict[str, Any]:
    """Have ITREX quantize the checkpoint `model_dir`, and write the result to `target` once it is whole.

    Returns:
        Notes for provenance: matmuls (projections and head), int8_matmuls, int8_modules (names, embeddings among them),
        itrex_parity_max_abs (largest difference of a logit from those that ITREX's own process computes), and versions,
        of ITREX and its libraries.

    Raises:
        CheckpointError: the checkpoint is not a GPT-2 or is damaged, or the result is no quantized one.
        ItrexError: ITREX cannot run here or failed, or the result has other logits here than there.
    """
    model = load_gpt2(model_dir)
    with TemporaryDirectory() as name:
        scratch = Path(name)
        save_gpt2(model, model_dir, scratch / "model")
        kinds = run_worker(Quantization(str(scratch / "model"), _PROMPT)._asdict(), scratch)["kinds"]
        modules = {name: {"kind": kind} for name, kind in kinds.items()}
        save_quantized(scratch / "model", load_file(scratch / "output" / WEIGHTS), modules, scratch / "quantized")
        difference = _difference(load_quantized(scratch / "quantized"), scratch / "output" / LOGITS)
        shutil.copytree(scratch / "quantized", target, dirs_exist_ok=True)
    return {
        "matmuls": sum(isinstance(module, Conv1D | torch.nn.Linear) for module in model.modules()),
        "int8_matmuls": sum(kind == "linear" for kind in kinds.values()),
        "int8_modules": sorted(kinds),
        "itrex_parity_max_abs": difference,
        "versions": library_versions(),
    }


def _difference(model: GPT2LMHeadModel, expected: Path) -> float:
    """Largest difference of a logit of a model from those in a file.

    Raises:
        ItrexError: it is above 1e-4, or not a number.
    """
    with torch.no_grad():
        logits = model(torch.tensor([_PROMPT])).logits[0]
    difference = float((logits - load_file(expected)["logits"]).abs().max())
    if not difference <= _TOLERANCE:
        raise ItrexError(f"ITREX: logits differ by {difference:g} here from there; allowed: {_TOLERANCE:g}")
    return difference
