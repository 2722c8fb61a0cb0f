"""The host's peaks: measured for real once, kept, and measured again only where something has changed."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slimline.storage.paths import home
from slimline.tasks.measurement import peaks
from slimline.tasks.measurement.peaks import (
    Beaten,
    Peaks,
    PeaksError,
    best_of,
    host_peaks,
    raise_peaks,
    remeasure_peaks,
)
from slimline.tasks.runtime.host import describe_host, has_bf16, isa_flags, last_level_cache_bytes
from tests.command import run_program

RATES = {"fp32_gflops": 100.0, "bf16_gflops": None, "int8_gops": 300.0, "read_gb_s": 10.0}
QUIET, BUSY = 0.0, 1000.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """This host's peaks with one thread, and the state directory they are kept in."""
    directory = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMLINE_HOME", str(directory))
        patch.setattr(peaks, "_load", lambda: QUIET)
        return host_peaks(1), directory


@pytest.fixture
def no_process(monkeypatch):
    """Measuring takes no process, and counts how often it is asked for."""
    asked = []

    def measure(threads):
        asked.append(threads)
        return {**RATES, "kernels": {"fp32": "a", "int8": "b", "read": "c"}}

    monkeypatch.setattr(peaks, "_measure_in_child", measure)
    monkeypatch.setattr(peaks, "_load", lambda: 0.0)
    return asked


@pytest.fixture
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))


def test_peaks_of_this_host(measured):
    found, _ = measured
    assert found.threads == 1 and found.cpu == describe_host().cpu
    assert (datetime.now(UTC) - found.measured).total_seconds() < 3600
    assert 0.1 < found.fp32_gflops < 10_000 and 0.1 < found.int8_gops < 100_000
    assert 0.1 < found.read_gb_s < 2_000
    assert (found.bf16_gflops is not None) == has_bf16(isa_flags())
    assert set(found.kernels) == {"fp32", "int8", "read"} | ({"bf16"} if found.bf16_gflops else set())
    assert set(found.versions) == {"numpy", "onnxruntime", "torch"}


def test_they_are_kept_and_read_back(measured, monkeypatch):
    found, directory = measured
    monkeypatch.setenv("SLIMLINE_HOME", str(directory))
    monkeypatch.setattr(peaks, "_measure_in_child", lambda threads: pytest.fail("measured again"))
    assert host_peaks(1) == found
    kept = json.loads((directory / "peaks" / f"{found.fingerprint}.json").read_text())
    assert kept["fp32_gflops"] == found.fp32_gflops and kept["kernels"] == found.kernels


def test_they_are_measured_again_where_asked_damaged_or_changed(fresh_home, no_process, monkeypatch):
    first = host_peaks(1)
    host_peaks(1)
    assert no_process == [1]
    remeasure_peaks(1)
    (home() / "peaks" / f"{first.fingerprint}.json").write_text('{"cpu": ')
    host_peaks(1)
    assert no_process == [1, 1, 1]
    other = host_peaks(2)
    assert other.fingerprint != first.fingerprint and no_process[-1] == 2
    monkeypatch.setattr(peaks, "library_versions", lambda: {"torch": "0", "scipy": "9"})
    assert host_peaks(1).versions == {"torch": "0"}
    assert len(list((home() / "peaks").glob("*.json"))) == 3


def test_a_process_that_fails_is_reported_with_its_last_words(fresh_home):
    with pytest.raises(PeaksError, match=r"peaks.*status 1.*Error"):
        host_peaks(-1)
    assert not (home() / "peaks").exists()


def test_precisions_and_descriptions(fresh_home, no_process):
    found = host_peaks(1)
    assert [found.operations_per_s(name) for name in ("float32", "bfloat16", "int8")] == [1e11, 1e11, 3e11]
    native = Peaks(**{**found.model_dump(), "bf16_gflops": 200.0})
    assert native.operations_per_s("bfloat16") == 2e11
    assert found.describe()["read"].startswith("10.0 GB/s (c; 20") and found.describe()["read"].endswith("load 0.00)")
    assert "bf16" not in found.describe()
    assert [found.rate_of("bfloat16"), native.rate_of("bfloat16")] == ["fp32", "bf16"]


def measure_as(monkeypatch, load=QUIET, **rates):
    """Have the next measurements give these rates at that load."""
    kernels = {name: str(load) for name in ("fp32", "int8", "read")}
    monkeypatch.setattr(peaks, "_measure_in_child", lambda threads: {**RATES, **rates, "kernels": kernels})
    monkeypatch.setattr(peaks, "_load", lambda: load)


def test_a_busy_machine_overwrites_nothing_better(fresh_home, monkeypatch):
    measure_as(monkeypatch, read_gb_s=79.6)
    host_peaks(1)
    measure_as(monkeypatch, BUSY, read_gb_s=5.9, int8_gops=400.0)
    found = remeasure_peaks(1)
    assert found.is_busy and (found.now.read_gb_s, found.kept.read_gb_s) == (5.9, 79.6)
    assert (found.kept.int8_gops, found.kept.measurements, found.kept.least_load) == (400.0, 2, QUIET)
    assert {name: each.load for name, each in found.kept.conditions.items()} == {"fp32": 0.0, "int8": BUSY, "read": 0.0}
    assert found.kept.kernels["int8"] == str(BUSY) and found.kept.kernels["read"] == str(QUIET)
    assert host_peaks(1) == found.kept and json.loads(found.path.read_text())["read_gb_s"] == 79.6
    assert remeasure_peaks(1).kept.measurements == 3


def test_what_was_measured_on_a_busy_machine_is_measured_again_once_it_is_quiet(fresh_home, monkeypatch):
    measure_as(monkeypatch, BUSY, read_gb_s=5.9)
    assert host_peaks(1).read_gb_s == host_peaks(1).read_gb_s == 5.9
    assert host_peaks(1).measurements == 1
    measure_as(monkeypatch, read_gb_s=79.6)
    assert (host_peaks(1).read_gb_s, host_peaks(1).measurements) == (79.6, 2)


def test_a_file_of_an_earlier_version_is_read_and_measured_again_once(fresh_home, no_process):
    """Its load is not known."""
    first = host_peaks(1)
    path = home() / "peaks" / f"{first.fingerprint}.json"
    new = ("conditions", "measurements", "least_load")
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in new}
    path.write_text(json.dumps(old | {"read_gb_s": 79.6}))
    found = host_peaks(1)
    assert (found.read_gb_s, found.measurements, found.least_load) == (79.6, 2, 0.0)
    assert "load unknown" in found.describe()["read"]
    assert host_peaks(1) == found and no_process == [1, 1]


def test_a_run_raises_a_peak_and_lowers_none(fresh_home, no_process):
    first = host_peaks(1)
    raised = raise_peaks(first, {"read": Beaten("read", 50.0, "int8 in r1")})
    assert (raised.read_gb_s, raised.fp32_gflops, raised.measurements) == (50.0, 100.0, 1)
    assert raised.kernels["read"] == "int8 in r1" and host_peaks(1) == raised
    assert raise_peaks(first, {"read": Beaten("read", 40.0, "int8 in r2")}).read_gb_s == 50.0


def test_writers_at_once_keep_the_largest(fresh_home, no_process):
    first = host_peaks(1)
    rates = [float(rate) for rate in range(11, 31)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda rate: raise_peaks(first, {"read": Beaten("read", rate, "x")}), rates))
    assert host_peaks(1).read_gb_s == max(rates)


def test_the_best_of_two_has_the_larger_of_each(fresh_home, no_process):
    one = host_peaks(1)
    other = one.model_copy(update={"fp32_gflops": 90.0, "int8_gops": 310.0, "bf16_gflops": 200.0, "least_load": None})
    for found in (best_of(one, other), best_of(other, one)):
        assert [found.fp32_gflops, found.bf16_gflops, found.int8_gops, found.read_gb_s] == [100.0, 200.0, 310.0, 10.0]
        assert (found.measurements, found.least_load) == (2, 0.0)


def test_the_parent_holds_no_library_that_computes():
    program = Path(__file__).parents[1] / "programs" / "print_imports.py"
    imported = json.loads(run_program(program, "slimline.tasks.measurement.peaks").stdout)
    assert not set(imported) & {"torch", "onnxruntime", "onnx"}


def test_shared_caches_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    sizes = {"index0": ("1", "32K", "{}"), "index3": ("3", "1024K", "{}")}
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3")):
        for name, (level, size, _) in sizes.items():
            cache = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cache/{name}"
            cache.mkdir(parents=True)
            owners = shared if name == "index3" else str(cpu)
            for field, text in {"level": level, "size": size, "shared_cpu_list": owners}.items():
                (cache / field).write_text(f"{text}\n")
    assert last_level_cache_bytes(tmp_path) == 2 * 1024 * 1024
    assert last_level_cache_bytes(tmp_path / "none") == 0
