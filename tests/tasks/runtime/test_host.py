import dataclasses
import json
import os
from pathlib import Path

import pytest

from slimline.storage.metrics.rows import HostRow
from slimline.tasks.runtime.host import (
    Conditions,
    Hardware,
    cgroup_quota,
    cpu_model,
    describe_host,
    isa_flags,
    library_versions,
    usable_cpus,
    usable_threads,
    warnings,
)
from tests.command import run_program

QUIET = Conditions(
    cpus=4, quota=None, isa=("avx2", "avx512_vnni", "avx512_bf16"), load=0.1, governor=None, swap_used_mb=0
)


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_this_host_is_described_as_its_table_wants():
    found = describe_host()
    assert set(found._fields) <= set(HostRow.model_fields)
    HostRow(run="r1", **found._asdict())
    assert 1 <= found.cores <= found.threads == len(usable_cpus())
    assert found.memory_mb > 500
    assert found == describe_host()


def test_versions_are_those_installed():
    import numpy

    assert library_versions()["numpy"] == numpy.__version__


def test_the_fingerprint_ignores_a_little_memory_and_nothing_else():
    hardware = Hardware(cpu="X", cores=2, threads=4, memory_mb=16_010, isa=("avx2",))
    assert hardware.fingerprint == "2594260fe3bd9600"  # that of earlier versions: a host's history goes on
    assert hardware.fingerprint == hardware._replace(memory_mb=15_980).fingerprint
    changes = [{"cpu": "Y"}, {"cores": 4}, {"threads": 2}, {"memory_mb": 32_000}, {"isa": ()}]
    assert len({hardware._replace(**change).fingerprint for change in [{}, *changes]}) == 6


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_affinity_limits_what_is_usable():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert usable_cpus() == [max(before)]
        assert usable_threads() == describe_host().cores == describe_host().threads == 1
    finally:
        os.sched_setaffinity(0, before)


def test_x86_is_read_from_cpuinfo(tmp_path):
    cpu = "processor\t: {}\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512_vnni amx_int8 amx_bf16\n\n"
    root = write(tmp_path, {"proc/cpuinfo": cpu.format(0) + cpu.format(1)})
    assert cpu_model(root) == "Intel(R) Xeon(R)"
    assert isa_flags(root) == ["avx2", "avx512_vnni", "amx_int8", "amx_bf16"]


def test_arm_is_read_from_cpuinfo(tmp_path):
    root = write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"})
    assert isa_flags(root) == ["asimd", "asimddp", "i8mm", "bf16"]


def test_a_system_without_procfs_has_a_name_and_no_flags(tmp_path):
    assert cpu_model(tmp_path)
    assert isa_flags(tmp_path) == []
    assert cgroup_quota(tmp_path) is None
    assert Conditions.now(tmp_path).governor is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/cpu.max": "400000 100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/id\n1:name=systemd:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "3:cpuset:/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, None),
    ],
    ids=["v2 none", "v2", "v2 nested", "v1", "v1 none", "no cpu controller"],
)
def test_cgroup_quotas(tmp_path, files, quota):
    assert cgroup_quota(write(tmp_path, files)) == quota


def test_a_quota_limits_threads_but_leaves_one(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert usable_threads(root) == 1


def test_a_governor_is_found(tmp_path):
    cpu = f"sys/devices/system/cpu/cpu{usable_cpus()[0]}/cpufreq/scaling_governor"
    assert Conditions.now(write(tmp_path, {cpu: "powersave\n"})).governor == "powersave"


def test_a_good_host_has_no_warnings():
    assert warnings(QUIET) == []
    assert warnings(dataclasses.replace(QUIET, isa=("asimddp", "bf16"), governor="performance", quota=4.0)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isa": ("avx2", "avx512_bf16")}, "No int8 dot product"),
        ({"isa": ("avx2", "avx_vnni")}, "No bf16 arithmetic"),
        ({"isa": ()}, "instruction sets are unknown"),
        ({"cpus": 1}, "only one CPU"),
        ({"quota": 1.5}, "allows 1.5 of 4 CPUs"),
        ({"governor": "powersave"}, "governor is powersave"),
        ({"load": 2.0}, "load average is 2.00 on 4 CPUs"),
        ({"swap_used_mb": 12.3}, "12 MB of swap"),
    ],
)
def test_each_trouble_is_told_once(change, message):
    (warning,) = warnings(dataclasses.replace(QUIET, **change))
    assert message in warning


def test_describing_a_host_imports_nothing_heavy():
    program = Path(__file__).parents[1] / "programs" / "print_imports.py"
    imported = json.loads(run_program(program, "slimline.tasks.runtime.host", "describe_host").stdout)
    assert not set(imported) & {"numpy", "scipy", "torch", "transformers", "onnxruntime"}
