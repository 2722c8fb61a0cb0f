"""Listings: one is enough where the file system shows all files as they were at one moment."""

import pytest

from slimline.storage.metrics.partitions import LocalPartitions, RemotePartitions, listing
from slimline.storage.metrics.schema import TABLES
from slimline.storage.metrics.store import MetricsStore
from tests.storage.factories import measured, run_row


class CountedRemote(RemotePartitions):
    """Files below memory://; what is listed is counted, and `moving` listings are incomplete, each one less so."""

    def __init__(self, moving=0):
        super().__init__("memory://partitions")
        self.listings = []
        self._moving = moving

    def files(self, table=None):
        self.listings.append(table)
        found = super().files(table)
        missing = max(0, self._moving - len(self.listings) + 1)
        return dict(list(found.items())[: len(found) - missing])


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
    assert len(listing(remote).visible) == files
    assert remote.listings == [None] * listings


def test_more_are_listed_until_two_listings_agree(make_remote):
    remote = make_remote(1010, moving=3)
    assert len(listing(remote).visible) == 1010
    assert len(remote.listings) == 3 + 2


def test_local_files_are_listed_until_two_listings_agree(tmp_path, monkeypatch):
    local = LocalPartitions(tmp_path)
    listings = []
    files = local.files

    def counted(table=None):
        listings.append(table)
        return files(table)

    monkeypatch.setattr(local, "files", counted)
    stamp = local.write("runs/month=2026-01/a.parquet", b"")
    assert listing(local).visible == {"runs/month=2026-01/a.parquet": stamp}
    assert listings == [None, None]


def test_a_store_lists_all_its_tables_at_once(monkeypatch):
    store = MetricsStore("memory://listed")
    store.append([run_row()])
    store.append([measured("a", "es", 1.0)])
    listings = []
    files = store._partitions.files
    monkeypatch.setattr(store._partitions, "files", lambda table=None: listings.append(table) or files(table))
    assert [name.partition("/")[0] for name in store.files()] == ["measurements", "runs"]
    assert listings == [None]
    assert store.query("SELECT count(*) AS n FROM result_table").to_pylist() == [{"n": 1}]
    assert listings == [None] * 2
    store._partitions.fs.rm("/listed", recursive=True)
