"""Named GPT-2 architectures."""

from __future__ import annotations

from typing import Any

# CodeGPT-small's shape is that of microsoft/CodeGPT-small-py's config.json; 124.24 M parameters with its 50,001 tokens.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "codegpt-small": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50_001},
    "bundled": {"n_layer": 6, "n_embd": 256, "n_head": 4, "n_positions": 512, "vocab_size": 8192},
    "tiny": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 256, "vocab_size": 8192},
}
