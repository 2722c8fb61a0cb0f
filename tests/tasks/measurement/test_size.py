import gzip
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from slimline.tasks.measurement import size
from slimline.tasks.measurement.size import Parameters, count_parameters, disk_size
from slimline.tasks.models.checkpoint import CheckpointError

CONFIG = {"model_type": "gpt2", "vocab_size": 6, "n_positions": 4, "n_embd": 4, "n_layer": 1, "n_head": 1}


@pytest.fixture
def checkpoint(tmp_path):
    def write(tensors, **config):
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | config))
        return tmp_path

    return write


def weights(*shape, zeros=0):
    values = np.ones(shape, dtype=np.float32)
    values.ravel()[:zeros] = 0.0
    return values


def test_sizes_are_those_of_the_files_and_of_gzip(tmp_path):
    contents = {"a.bin": np.random.default_rng(0).bytes(3_000_000), "sub/b.json": b"0" * 1_000_000, "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    size = disk_size(tmp_path)
    assert size.raw_mb == 4.0
    expected = sum(len(gzip.compress(content, 6)) for content in contents.values())
    assert size.gzip_mb * 1e6 == pytest.approx(expected, abs=200)  # pieces may flush deflate's blocks differently
    assert 3.0 < size.gzip_mb < 3.01


def test_zeros_in_place_shrink_the_archive_only(checkpoint):
    rng = np.random.default_rng(0)
    dense = disk_size(checkpoint({"x": rng.normal(size=(400, 400)).astype(np.float32)}))
    pruned = disk_size(checkpoint({"x": rng.normal(size=(400, 400)).astype(np.float32) * (rng.random((400, 1)) < 0.4)}))
    assert pruned.raw_mb == dense.raw_mb
    assert pruned.gzip_mb < 0.5 * dense.gzip_mb


def test_fp32_weights_would_take_half_the_bytes(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(400, 400))
    whole = disk_size(checkpoint({"x": floats.astype(np.float32), "y": rng.integers(0, 9, 50_000).astype(np.int8)}))
    assert whole.half_mb == pytest.approx(whole.raw_mb - 2 * 400 * 400 / 1e6)
    assert disk_size(checkpoint({"x": floats.astype(np.float16)})).half_mb is None


def test_an_empty_directory_has_no_size(tmp_path):
    with pytest.raises(ValueError, match="has no files"):
        disk_size(tmp_path)


@pytest.mark.parametrize("at_once", [size._CHUNK_ELEMENTS, 5])
def test_parameters_are_all_elements_and_those_that_are_not_zero(checkpoint, monkeypatch, at_once):
    monkeypatch.setattr(size, "_CHUNK_ELEMENTS", at_once)
    tensors = {"wte.weight": weights(6, 4, zeros=7), "b": weights(9, zeros=2), "s": np.array(-0.0, dtype=np.float32)}
    assert count_parameters(checkpoint(tensors)) == Parameters(total=34, nonzero=24)


def test_causal_masks_are_no_parameters(checkpoint):
    masks = {"h.0.attn.bias": weights(1, 1, 4, 4), "h.0.attn.masked_bias": np.array(-1e4, dtype=np.float32)}
    assert count_parameters(checkpoint(masks | {"h.0.attn.c_attn.bias": weights(12)})) == Parameters(12, 12)


@pytest.mark.parametrize(("tied", "total"), [(True, 24), (False, 48)])
def test_a_tied_head_counts_once(checkpoint, tied, total):
    tensors = {"transformer.wte.weight": weights(6, 4), "lm_head.weight": weights(6, 4)}
    assert count_parameters(checkpoint(tensors, tie_word_embeddings=tied)).total == total


def test_an_int8_weight_is_zero_where_its_value_is(checkpoint):
    head = np.array([[3, 3, 0, 1]] * 6, dtype=np.int8)
    directory = checkpoint({"wte.weight": weights(6, 4), "lm_head.weight": head}, tie_word_embeddings=False)
    modules = {"lm_head": {"scale": 0.1, "zero_point": 3}}
    (directory / "quantization.json").write_text(json.dumps({"method": "torch-dynamic-int8", "modules": modules}))
    assert count_parameters(directory) == Parameters(total=48, nonzero=36)


@pytest.mark.parametrize("at_once", [size._CHUNK_ELEMENTS, 8])
def test_each_row_of_an_int8_weight_may_have_a_zero_point_of_its_own(checkpoint, monkeypatch, at_once):
    monkeypatch.setattr(size, "_CHUNK_ELEMENTS", at_once)
    tensors = {
        "wte.weight": np.array([[3, 4, 5, 5]] * 6, dtype=np.uint8),
        "wte.scales": np.ones(6, dtype=np.float32),
        "wte.zero_points": np.array([3, 4, 5, 6, 4.5, 0], dtype=np.float32),
        "ln_f.bias": weights(4, zeros=1),
    }
    directory = checkpoint(tensors)
    modules = {"wte": {"kind": "embedding"}}
    (directory / "quantization.json").write_text(json.dumps({"method": "torch-dynamic-int8", "modules": modules}))
    assert count_parameters(directory) == Parameters(total=28, nonzero=28 - (1 + 1 + 2) - 1)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        count_parameters(tmp_path)
