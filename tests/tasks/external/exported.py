"""Copies of the exports beside this file, each with its tokenizer, which tests may change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
from ctranslate2.converters import TransformersConverter

from slimline.tasks.engines.base import CompletionEngine, load_engine
from slimline.tasks.external.adoption import adopt
from slimline.tasks.specs import Engine, EngineName, External

EXPORTS = Path(__file__).with_name("exports")
ENGINES: dict[str, EngineName] = {
    "checkpoint": "torch",
    "llama": "torch",
    "optimum": "onnxruntime",
    "genai": "onnxruntime",
    "openvino": "openvino",
}


def export_of(name: str, target: Path) -> Path:
    shutil.copytree(EXPORTS / name, target)
    shutil.copyfile(EXPORTS / "checkpoint" / "tokenizer.json", target / "tokenizer.json")
    return target


def adopted(directory: Path, target: Path, **fields: Any) -> Path:
    target.mkdir()
    adopt(External(directory=directory, **fields), target)
    return target


def engine_of(directory: Path, target: Path, name: EngineName, **fields: Any) -> CompletionEngine:
    return load_engine(Engine(name=name), adopted(directory, target, **fields), 1)


def converted(checkpoint: Path, target: Path) -> Path:
    """What CTranslate2's own converter makes of a checkpoint, which needs the tokenizer's configuration."""
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<|UNKNOWN|>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings), "utf8")
    TransformersConverter(str(checkpoint), copy_files=["tokenizer.json"]).convert(str(target))
    return target


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields; None removes one."""
    content = {**json.loads(path.read_text("utf8")), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), "utf8")


def edit_graph(path: Path, change: Any) -> None:
    model = onnx.load_model(path, load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value everywhere, also in the graph's inputs and outputs."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
