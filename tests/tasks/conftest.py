"""Small models and slices, made once a file; torch is imported only where one is asked for."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of whole words."""
    from tests.tasks.tiny import write_model

    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def slice_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data for `model_dir`."""
    from tests.tasks.tiny import write_slice

    return write_slice(tmp_path_factory.mktemp("slice"))


@pytest.fixture(scope="module")
def bpe_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of byte pairs."""
    from tests.tasks.bpe_models import write_bpe_model

    return write_bpe_model(tmp_path_factory.mktemp("bpe-model"))


@pytest.fixture(scope="module")
def bpe_slice_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data for `bpe_model_dir`."""
    from tests.tasks.bpe_models import write_bpe_slice

    return write_bpe_slice(tmp_path_factory.mktemp("bpe-slice"))
