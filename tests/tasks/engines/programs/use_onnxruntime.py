"""Print the logits after a prompt of a graph that onnxruntime alone has loaded."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

directory, prompt = Path(sys.argv[1]), [int(word) for word in sys.argv[2:]]
session = onnxruntime.InferenceSession(directory / "model.onnx")
config = json.loads((directory / "config.json").read_text())
size = 1, config["n_head"], len(prompt), config["n_embd"] // config["n_head"]
feeds = {
    "input_ids": np.array([prompt]),
    "position_ids": np.arange(len(prompt))[None],
    "wanted": np.array([[len(prompt) - 1]]),
    "seqlens_k": np.array([len(prompt) - 1], np.int32),
    "total_sequence_length": np.array(len(prompt), np.int32),
}
for layer in range(config["n_layer"]):
    feeds |= {f"past_{kind}_{layer}": np.zeros(size, np.float32) for kind in ("key", "value")}
print(json.dumps(session.run(["logits"], feeds)[0][0, 0].tolist()))
assert not {"slimline", "torch"} & set(sys.modules)
