"""Export of a GPT-2 to CTranslate2, by a description of the model in the library's classes.

`ctranslate2.Generator` can load the exported directory. Its `config.json` has GPT-2's keys and the library's own; the
library needs `vocabulary.json`, in which it looks up tokens.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec
from ctranslate2.specs.model_spec import index_spec
from numpy.typing import NDArray
from tokenizers import Tokenizer

from slimline.tasks.engines.ctranslate2_engine import open_generator
from slimline.tasks.export.gpt2_tensors import refuse_unsupported
from slimline.tasks.models.checkpoint import CheckpointError, Gpt2Config, read_gpt2_config
from slimline.tasks.models.loading import load_gpt2
from slimline.tasks.runtime.host import usable_weight_bits
from slimline.tasks.specs import ExportCtranslate2

Weights = dict[str, NDArray[np.float32]]

# The library's names of storage types: of matrices, and of everything else, which CPUs compute in fp32.
_STORED = {"float32": "float32", "int8": "int8_float16"}
_SEVEN_BITS = np.float32(63)


def export_ctranslate2(source: Path, target: Path, spec: ExportCtranslate2) -> dict[str, Any]:
    """Write `model.bin`, `config.json`, `vocabulary.json` and `tokenizer.json` for the checkpoint `source`.

    In int8 every matrix has one scale per output channel, or per token for the embedding, and activations are rounded
    at run time with one scale per token; norms, biases and positions are stored in fp16. A tied head is stored once.
    Where eight bits of a weight would saturate, seven are used.

    Returns:
        Notes for provenance: matmuls; int8_matmuls, those stored in int8 and executed in it on this CPU, according to
        the library; compute_type, the library's name of the type; tied_head; weight_bits, in int8.

    Raises:
        CheckpointError: the checkpoint is damaged, dynamic-int8, or computes something that the library does not.
    """
    config = read_gpt2_config(source)
    refuse_unsupported(source, config, "export-ctranslate2")
    weights: Weights = {name: value.numpy() for name, value in load_gpt2(source).state_dict().items()}
    model = _describe(config, weights)
    _name_tokens(model, source, config["vocab_size"])
    model.validate()
    bits = (spec.weight_bits or usable_weight_bits()) if spec.precision == "int8" else None
    _store_as(model, _STORED[spec.precision], bits)
    target.mkdir(parents=True, exist_ok=True)
    model.save(str(target))
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    _merge_config(source, target)
    _compact_json(target / "vocabulary.json")
    notes = _notes(model, target) | {"tied_head": config["tie_word_embeddings"]}
    return notes | ({"weight_bits": bits} if bits else {})


def _describe(config: Gpt2Config, weights: Weights) -> Any:
    """The library's specification of a decoder, with all weights."""
    model = TransformerDecoderModelSpec.from_config(
        config["n_layer"], config["n_head"], activation=common_spec.Activation.GELUTanh
    )
    model.config.layer_norm_epsilon = config["layer_norm_epsilon"]
    decoder = model.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["transformer.wte.weight"]
    decoder.position_encodings.encodings = weights["transformer.wpe.weight"]
    decoder.projection.weight = weights["lm_head.weight"]
    _norm(decoder.layer_norm, weights, "transformer.ln_f")
    for index, layer in enumerate(decoder.layer):
        name = f"transformer.h.{index}"
        attention, feed_forward = layer.self_attention, layer.ffn
        if not config["scale_attn_weights"]:
            attention.queries_scale = np.float32(1)
        _norm(attention.layer_norm, weights, f"{name}.ln_1")
        _linear(attention.linear[0], weights, f"{name}.attn.c_attn")
        _linear(attention.linear[1], weights, f"{name}.attn.c_proj")
        _norm(feed_forward.layer_norm, weights, f"{name}.ln_2")
        _linear(feed_forward.linear_0, weights, f"{name}.mlp.c_fc")
        _linear(feed_forward.linear_1, weights, f"{name}.mlp.c_proj")
    return model


def _store_as(model: Any, kind: str, weight_bits: int | None) -> None:
    """Convert the weights to their storage type; the library's int8 has eight bits, so seven replace it afterwards."""
    matrices = model.variables() if weight_bits == 7 else {}
    precise = {name: value.numpy().copy() for name, value in matrices.items() if name.endswith("/weight")}
    model.optimize(kind)
    stored = model.variables()
    for name in [name for name in precise if getattr(stored[name], "dtype", None) == "int8"]:
        largest = np.abs(precise[name]).max(axis=1, keepdims=True)
        scales = _SEVEN_BITS / np.where(largest == 0, _SEVEN_BITS, largest)
        layer = index_spec(model, name.removesuffix("/weight"))
        layer.weight = type(stored[name])(np.rint(precise[name] * scales).astype(np.int8))
        layer.weight_scale = type(stored[name])(scales[:, 0])


def _norm(layer: Any, weights: Weights, name: str) -> None:
    layer.gamma, layer.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear(layer: Any, weights: Weights, name: str) -> None:
    """Set weight and bias; GPT-2 stores inputs x outputs, the library outputs x inputs."""
    layer.weight, layer.bias = weights[f"{name}.weight"].T, weights[f"{name}.bias"]


def _name_tokens(model: Any, directory: Path, size: int) -> None:
    """Register a unique name for every id: the tokenizer's token, or a placeholder for an unused id."""
    known = {index: token for token, index in _vocabulary(directory / "tokenizer.json").items()}
    tokens = [known.get(index, f"<|unused {index}|>") for index in range(size)]
    model.register_vocabulary(tokens)
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for role in ("bos", "eos"):
        index = raw.get(f"{role}_token_id")
        setattr(model.config, f"{role}_token", tokens[index if isinstance(index, int) and index < size else 0])
    # The library appends its unknown token if the vocabulary lacks it, but the model has no row for it.
    model.config.unk_token = model.config.eos_token


def _vocabulary(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing")
    try:
        vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # tokenizers raises that for a damaged file
        raise CheckpointError(f"{path}: not a readable tokenizer ({error})") from error
    return vocabulary


def _merge_config(source: Path, target: Path) -> None:
    first, second = (json.loads((place / "config.json").read_text(encoding="utf-8")) for place in (source, target))
    (target / "config.json").write_text(json.dumps(first | second, indent=2) + "\n", encoding="utf-8")


def _compact_json(path: Path) -> None:
    """Write the same JSON without blanks and escapes, which are half of it."""
    tokens = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tokens, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _notes(model: Any, directory: Path) -> dict[str, Any]:
    variables = model.variables()
    matrices = [value for name, value in variables.items() if name.endswith("/weight") and "embeddings" not in name]
    # A tied head is not a tensor, but the name of one.
    types = [(variables[value] if isinstance(value, str) else value).dtype for value in matrices]
    compute_type = open_generator(directory, threads=1).compute_type
    int8 = types.count("int8") if compute_type.startswith("int8") else 0
    return {"matmuls": len(types), "int8_matmuls": int8, "compute_type": compute_type}
