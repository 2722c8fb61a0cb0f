"""The cache of remote files: each is fetched once, and what was unused for longest goes when there is too much."""

import os

import pytest

from slimline.storage import cache
from slimline.storage.cache import ReadCache, cache_limit

LATER_S = 2 * 3600


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SLIMLINE_CACHE_GB", "0.00000025")  # 250 bytes
    return lambda: ReadCache("s3://bucket/x")


def test_a_file_is_fetched_once(make):
    fetched = []
    for _ in range(2):
        path = make().path("a", lambda: fetched.append(1) or b"content")
        assert path.read_bytes() == b"content"
    assert fetched == [1]


def test_what_was_unused_for_longest_goes(make):
    paths = {key: make().path(key, lambda: b"x" * 100) for key in "abc"}
    for number, key in enumerate("bac"):
        os.utime(paths[key], (number, number))
    new = make().path("d", lambda: b"y" * 100)
    assert [key for key in "abc" if paths[key].exists()] == ["a", "c"]
    assert new.exists()


def test_what_may_be_in_use_stays(make):
    paths = [make().path(key, lambda: b"x" * 200) for key in "abc"]
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", ""])
def test_a_limit_that_is_no_size_is_refused(text, monkeypatch):
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(ValueError, match="SLIMLINE_CACHE_GB"):
        cache_limit()
