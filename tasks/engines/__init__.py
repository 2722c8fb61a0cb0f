"""Engines that complete prompts with an artifact: torch, onnxruntime, OpenVINO, CTranslate2."""
