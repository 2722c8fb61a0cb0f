"""Listings: one is enough where the file system shows all files as they were at one moment."""

import pytest

from slimline.storage.metrics.partitions import LocalPartitions, RemotePartitions, visible
from slimline.storage.metrics.schema import TABLES
from slimline.storage.metrics.store import MetricsStore
from tests.storage.factories import measured, run_row


class CountedRemote(RemotePartitions):
    """Files below memory://; what is listed is counted, and `moving` listings are incomplete, each one less so."""

    def __init__(self, moving=0):
        super().__init__("memory://partitions")
        self.listings = []
        self._moving = moving

    def names(self, table=None):
        self.listings.append(table)
        found = super().names(table)
        missing = max(0, self._moving - len(self.listings) + 1)
        return found[: len(found) - missing]


@pytest.fixture
def make_remote():
    remotes = []

    def make(files, moving=0):
        remote = CountedRemote(moving)
        remotes.append(remote)
        for number in range(files):
            remote.write(f"{list(TABLES)[number % 2]}/month=2026-01/{number:04}.parquet", b"")
        return remote

    yield make
    for remote in remotes:
        remote.fs.store.clear()


@pytest.mark.parametrize(("files", "listings"), [(0, 1), (5, 1), (999, 1), (1000, 2)])
def test_what_one_request_lists_is_listed_once(make_remote, files, listings):
    remote = make_remote(files)
    assert len(visible(remote)) == files
    assert remote.listings == [None] * listings


def test_more_are_listed_until_two_listings_agree(make_remote):
    remote = make_remote(1010, moving=3)
    assert len(visible(remote)) == 1010
    assert len(remote.listings) == 3 + 2


def test_local_files_are_listed_until_two_listings_agree(tmp_path, monkeypatch):
    local = LocalPartitions(tmp_path)
    listings = []
    names = local.names

    def counted(table=None):
        listings.append(table)
        return names(table)

    monkeypatch.setattr(local, "names", counted)
    local.write("runs/month=2026-01/a.parquet", b"")
    assert visible(local) == ["runs/month=2026-01/a.parquet"]
    assert listings == [None, None]


def test_a_store_lists_all_its_tables_at_once(monkeypatch):
    store = MetricsStore("memory://listed")
    store.append([run_row()])
    store.append([measured("a", "es", 1.0)])
    listings = []
    names = store._partitions.names
    monkeypatch.setattr(store._partitions, "names", lambda table=None: listings.append(table) or names(table))
    assert {table: len(files) for table, files in store.files().items()} == {
        **dict.fromkeys(TABLES, 0),
        "runs": 1,
        "measurements": 1,
    }
    assert listings == [None]
    assert store.query("SELECT count(*) AS n FROM result_table").to_pylist() == [{"n": 1}]
    assert listings == [None] * 2
    store._partitions.fs.rm("/listed", recursive=True)
