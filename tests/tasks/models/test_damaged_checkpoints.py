"""A checkpoint that is not whole is refused where it comes in: as a base, and by every engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from slimline.tasks.engines.base import load_engine
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.models.bases import make_base
from slimline.tasks.models.checkpoint import CheckpointError
from slimline.tasks.specs import Engine, PathBase


def edit(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no directory": (shutil.rmtree, ["config.json", "GPT-2 checkpoint directory"]),
    "no config": (lambda at: (at / "config.json").unlink(), ["base.directory", "config.json"]),
    "config not JSON": (lambda at: cut(at / "config.json", 20), ["config.json", "not JSON"]),
    "config a list": (lambda at: (at / "config.json").write_text("[]"), ["config.json", "list", "object"]),
    "another model": (lambda at: edit(at, model_type="bert"), ["model_type", "'bert'", "allowed", "'gpt2'"]),
    "heads that do not divide": (lambda at: edit(at, n_head=5), ["n_head", "5", "divisor"]),
    "more layers": (lambda at: edit(at, n_layer=3), ["model.safetensors", "transformer.h.2.attn.c_attn.weight"]),
    "another width": (lambda at: edit(at, vocab_size=99), ["model.safetensors", "transformer.wte.weight"]),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), ["model.safetensors", "missing"]),
    "cut weights": (lambda at: cut(at / "model.safetensors", 90_000), ["model.safetensors", "truncated"]),
    "cut header": (lambda at: cut(at / "model.safetensors", 90), ["model.safetensors", "truncated"]),
    "no tokenizer": (lambda at: [path.unlink() for path in at.glob("tokenizer*")], ["tokenizer.json"]),
    "cut tokenizer": (lambda at: cut(at / "tokenizer.json", 90), ["tokenizer.json"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_no_base(model_dir: Path, tmp_path: Path, damage: str) -> None:

    directory, target = tmp_path / "given", tmp_path / "made"
    shutil.copytree(model_dir, directory)
    harm, words = DAMAGES[damage]
    harm(directory)
    target.mkdir()
    with pytest.raises(ValueError, match=r"(?s).") as refused:
        make_base(PathBase(directory=directory), tmp_path, target)
    assert all(word in str(refused.value) for word in (str(directory), *words))


def test_the_whole_checkpoint_is_a_base(model_dir: Path, tmp_path: Path) -> None:

    assert not make_base(PathBase(directory=model_dir), tmp_path, tmp_path)["random_weights"]
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(("engine", "file"), [("torch", "model.safetensors"), ("onnxruntime", "model.onnx")])
def test_an_engine_refuses_a_truncated_artifact(
    model_dir: Path, tmp_path: Path, engine: Literal["torch", "onnxruntime"], file: str
) -> None:

    directory = tmp_path / "artifact"
    if engine == "torch":
        shutil.copytree(model_dir, directory)
    else:
        directory.mkdir()
        export_onnx(model_dir, directory)
    size = (directory / file).stat().st_size
    cut(directory / file, size // 2)
    with pytest.raises(CheckpointError) as refused:
        load_engine(Engine(name=engine), directory, threads=1)
    assert str(directory) in str(refused.value) and file in str(refused.value)
