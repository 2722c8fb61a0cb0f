"""Load an artifact and complete prompts with it: torch, onnxruntime; and the exporter between them."""
