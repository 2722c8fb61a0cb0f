"""Print the logits after a prompt of a model that OpenVINO alone has loaded."""

import sys

import numpy as np

sys.modules["openvino_telemetry"] = None  # tests report to nobody either
import openvino  # noqa: E402 - after the line above

model = openvino.compile_model(sys.argv[1] + "/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
prompt = [int(word) for word in sys.argv[2:]]
new = len(prompt)
logits = model(
    {
        "input_ids": np.array([prompt]),
        "position_ids": np.arange(new)[None],
        "mask": np.triu(np.full((1, 1, new, new), -1e30, np.float32), 1),
        "beam_idx": np.array([0], np.int32),
        "wanted": np.array([new - 1]),
    }
)["logits"][0, 0]
print(logits.tolist())
assert "slimline" not in sys.modules
