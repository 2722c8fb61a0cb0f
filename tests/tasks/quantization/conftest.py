"""A model with a tokenizer, its export, and text to calibrate on."""

from pathlib import Path

import pytest


@pytest.fixture(scope="package")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with `model`, `onnx` and a slice; one channel of ln_1 is 30 times too large."""
    import torch
    from transformers import GPT2LMHeadModel

    from slimline.tasks.export.onnx_export import export_onnx
    from tests.tasks.tiny import write_model, write_slice

    directory = tmp_path_factory.mktemp("words")
    write_slice(directory)
    model = GPT2LMHeadModel.from_pretrained(write_model(directory / "model"))
    with torch.no_grad():
        for block in model.transformer.h:
            block.ln_1.weight[5] *= 30
            block.attn.c_attn.weight[5] /= 30
            for matrix in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                matrix.weight *= 4  # the initial ones are so small that attention hardly matters
    model.save_pretrained(directory / "model")
    export_onnx(directory / "model", directory / "onnx")
    return directory
