"""Print the logits that transformers alone computes for packed models, unpacked as docs/compression.md says."""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel


def logits(directory: str) -> list[float]:
    """The logits of the last position of a short prompt."""
    tensors = load_file(f"{directory}/packed.safetensors")
    state = {name: value.float() for name, value in tensors.items() if value.dtype == torch.float16}
    for name in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
        integers, scales = tensors[f"{name}.weight"], state.pop(f"{name}.scales")
        if integers.dtype == torch.uint8:
            integers = torch.cat([integers % 16, integers // 16], dim=1).float() - 8
        matrix = integers * scales.repeat_interleave(integers.shape[1] // scales.shape[1], dim=1)
        state[f"{name}.weight"] = matrix.T if ".h." in name else matrix
    state["lm_head.weight"] = state["transformer.wte.weight"]
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(directory)).eval()
    model.load_state_dict(state)
    found: list[float] = model(torch.tensor([[3, 4, 5]])).logits[0, -1].tolist()
    return found


print(json.dumps([logits(directory) for directory in sys.argv[1:]]))
assert "slimline" not in sys.modules
