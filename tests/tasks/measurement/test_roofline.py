"""What a model must compute and read, against counts made by others: torch's, and the tensors themselves."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.measurement.roofline import work_of
from slimline.tasks.quantization.dynamic_int8 import quantize_linear_only
from slimline.tasks.quantization.onnx_int8 import quantize_onnx
from slimline.tasks.specs import Engine
from tests.tasks.gpt2_models import POSITIONS, VOCABULARY, random_gpt2, save

WIDTH, INNER, LAYERS = 32, 48, 3
MATRICES = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER)
VECTORS = LAYERS * (4 * WIDTH + 3 * WIDTH + WIDTH + INNER + WIDTH) + 2 * WIDTH  # norms and biases
TABLE = VOCABULARY * WIDTH
TORCH, ONNX = Engine(name="torch"), Engine(name="onnxruntime")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return random_gpt2(n_layer=LAYERS, n_inner=INNER, attn_implementation="eager")  # its fused attention is not counted


@pytest.fixture(scope="module")
def checkpoint(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("graph")
    export_onnx(checkpoint, target)
    return target


@pytest.mark.parametrize("length", [1, 7, 30])
def test_operations_are_those_that_torch_counts(model: torch.nn.Module, checkpoint: Path, length: int) -> None:
    """torch computes the last block for every token, and attention for masked pairs too: both are added here."""
    work = work_of(checkpoint, TORCH, {})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(length)[None], logits_to_keep=1)
    ours = length * work.prefill_operations((length + 1) / 2, 1 / length)
    beyond = 2 * (length - 1) * (2 * WIDTH**2 + 2 * WIDTH * INNER)
    pairs = (LAYERS - 1) * length * (length + 1) / 2 + length  # of the last block, those of the last token
    masked = 4 * WIDTH * (LAYERS * length**2 - pairs)
    assert counter.get_total_flops() == ours + beyond + masked


def test_a_checkpoint_reads_all_but_the_position_table(checkpoint: Path) -> None:
    work = work_of(checkpoint, TORCH, {})
    assert work.weight_bytes == 4 * (MATRICES + VECTORS + TABLE)
    assert work.decode_bytes(10, beams=1) == work.weight_bytes + 10 * 2 * LAYERS * WIDTH * 4
    assert work.decode_bytes(10, beams=5) == work.weight_bytes + 50 * 2 * LAYERS * WIDTH * 4
    assert work.precision == "float32"


def test_bfloat16_halves_weights_and_cache(checkpoint: Path) -> None:
    work, full = work_of(checkpoint, Engine(name="torch", dtype="bfloat16"), {}), work_of(checkpoint, TORCH, {})
    assert (work.weight_bytes, work.precision) == (full.weight_bytes / 2, "bfloat16")
    assert work.cache_bytes_per_position == full.cache_bytes_per_position / 2


def test_a_graph_reads_what_its_checkpoint_does(checkpoint: Path, graph: Path) -> None:
    found, expected = (work_of(path, ONNX, {}).weight_bytes for path in (graph, checkpoint))
    assert 0 <= found - expected < 300  # shapes


def test_an_int8_graph_reads_bytes_and_scales_and_not_the_embeddings(graph: Path, tmp_path: Path) -> None:
    notes = quantize_onnx(graph, tmp_path, per_channel=True)
    work = work_of(tmp_path, ONNX, notes)
    outputs = LAYERS * (3 * WIDTH + WIDTH + INNER + WIDTH) + VOCABULARY
    expected = MATRICES + TABLE + 4 * (VECTORS + outputs)
    assert 0 <= work.weight_bytes - expected < 300
    assert work.precision == "int8"


def test_the_published_quantization_reads_an_int8_head_and_computes_in_fp32(checkpoint: Path, tmp_path: Path) -> None:
    notes = quantize_linear_only(checkpoint, tmp_path)
    work = work_of(tmp_path, TORCH, notes)
    assert work.weight_bytes == 4 * (MATRICES + VECTORS) + TABLE
    assert work.precision == "float32"


@pytest.mark.parametrize(
    ("notes", "precision"),
    [({"matmuls": 4, "int8_matmuls": 2}, "int8"), ({"matmuls": 4, "int8_matmuls": 1}, "float32"), ({}, "float32")],
)
def test_half_of_the_multiplications_decide_the_precision(
    checkpoint: Path, notes: dict[str, int], precision: str
) -> None:
    assert work_of(checkpoint, TORCH, notes).precision == precision


@pytest.mark.parametrize("tied", [True, False])
def test_an_openvino_model_reads_what_its_matrices_take(checkpoint: Path, tmp_path: Path, tied: bool) -> None:
    """A table of 8 x 4 in int8 with scales, gathered, and as the head; positions; a bias."""
    ops = ov.opset13
    ids = ops.parameter([-1], np.int64, name="ids")
    axis = ops.constant(np.int64(0))
    scaled = [
        ops.multiply(
            ops.convert(ops.constant(np.full((8, 4), n, np.int8)), "f32"), ops.constant(np.full((8, 1), n, "f4"))
        )
        for n in (1, 2)
    ]
    places = ops.constant(np.ones((16, 4), np.float32))
    hidden = ops.add(ops.gather(scaled[0], ids, axis), ops.gather(places, ids, axis))
    hidden = ops.add(hidden, ops.constant(np.ones((1, 4), np.float32)))
    logits = ops.matmul(hidden, scaled[0 if tied else 1], transpose_a=False, transpose_b=True)
    ov.save_model(ov.Model([logits], [ids]), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    found = work_of(tmp_path, Engine(name="openvino"), {}).weight_bytes
    assert 0 <= found - (32 + 4 * 8 + 4 * 4) <= 16  # axes


@pytest.mark.parametrize(("tied", "share"), [(True, 1.0), (False, (MATRICES + TABLE) / (MATRICES + 2 * TABLE))])
def test_another_format_goes_by_its_files(checkpoint: Path, tmp_path: Path, tied: bool, share: float) -> None:
    config = (checkpoint / "config.json").read_text().replace("{", f'{{"tie_word_embeddings": {str(tied).lower()}, ', 1)
    (tmp_path / "config.json").write_text(config.replace('"tie_word_embeddings": true,\n', "") if not tied else config)
    (tmp_path / "tokenizer.json").write_text(" " * 999)
    (tmp_path / "model.bin").write_bytes(bytes(100_000 + 4 * POSITIONS * WIDTH))
    assert work_of(tmp_path, Engine(name="ctranslate2"), {}).weight_bytes == pytest.approx(100_000 * share)
