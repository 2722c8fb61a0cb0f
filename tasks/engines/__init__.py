"""Load an artifact and complete prompts: torch, onnxruntime, OpenVINO, CTranslate2; and what exports to them."""
