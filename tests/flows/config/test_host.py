"""What a host may say, and what a study may say of hosts."""

import platform
from pathlib import Path

import pytest
import yaml

from slimline.flows.config.host import HOSTS, Local, Pool, Slurm, host_names, load_host, load_hosts, table_name
from slimline.flows.config.study import Study, StudyError, load_study

SLURM = {"kind": "slurm", "cores": 8, "memory": "4GB", "walltime": "01:00:00"}
POOL = {"kind": "pool", "pool": "laptop"}


def written(directory: Path, content: object, name: str = "mine") -> str:
    path = directory / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_the_shipped_hosts_are_one_of_each_kind() -> None:
    assert host_names() == ["delftblue", "laptop", "local"]
    local, laptop, delftblue = (load_host(name) for name in ("local", "laptop", "delftblue"))
    assert isinstance(local, Local) and table_name(local) == platform.node()
    assert isinstance(laptop, Pool) and (laptop.pool, table_name(laptop)) == ("laptop", "laptop")
    assert isinstance(delftblue, Slurm) and table_name(delftblue) == "delftblue"
    assert (delftblue.partition, delftblue.cores, delftblue.memory) == ("compute", 8, "4GB")
    assert all(load_host(name).description for name in host_names())


def test_a_host_is_a_file_of_ones_own_too(tmp_path: Path) -> None:
    host = load_host(written(tmp_path, SLURM | {"modules": ["2024r1", "openmpi"], "account": "research"}, "cluster"))
    assert isinstance(host, Slurm)
    assert (host.name, host.modules, host.walltime_minutes) == ("cluster", ("2024r1", "openmpi"), 60)


@pytest.mark.parametrize(("walltime", "minutes"), [("00:51:30", 51.5), ("1-02:00:00", 1560.0), ("24:00:00", 1440.0)])
def test_walltimes_are_slurms(tmp_path: Path, walltime: str, minutes: float) -> None:
    host = load_host(written(tmp_path, SLURM | {"walltime": walltime}))
    assert isinstance(host, Slurm) and host.walltime_minutes == minutes


REFUSED = {  # name: content, field, what the message says
    "unknown kind": ({"kind": "cloud"}, "host", "'local', 'pool', 'slurm'"),
    "unknown field": (POOL | {"port": 22}, "pool", "'port' is not a field; allowed: name, description, kind, pool"),
    "pool without its name": ({"kind": "pool"}, "pool.pool", "Field required"),
    "pool with a slash": ({"kind": "pool", "pool": "a/b"}, "pool.pool", "'a/b'"),
    "no time to start": (POOL | {"start_within_minutes": 0}, "pool.start_within_minutes", "greater than 0 (found 0)"),
    "no cores": (SLURM | {"cores": 0}, "slurm.cores", "greater than 0 (found 0)"),
    "memory without a unit": (SLURM | {"memory": "4"}, "slurm.memory", "found '4'"),
    "walltime in words": (SLURM | {"walltime": "an hour"}, "slurm.walltime", "found 'an hour'"),
    "walltime read as seconds": (
        "{kind: slurm, cores: 1, memory: 1GB, walltime: 1:00:00}",
        "not valid YAML",
        "line 1: walltime: YAML 1.1 reads 1:00:00 as int",
    ),
    "longer than the walltime": (
        SLURM | {"limit_minutes": 60},
        "slurm",
        "limit_minutes is 60; allowed: less than the walltime of 60 minutes",
    ),
    "two lines in one": (SLURM | {"directives": ["--exclusive\nrm -rf /"]}, "slurm.directives.0", "pattern"),
    "a name that climbs": (POOL | {"name": "../up"}, "pool.name", "'../up'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_file_field_and_what_is_allowed(name: str, tmp_path: Path) -> None:
    content, field, message = REFUSED[name]
    path = written(tmp_path, content)
    with pytest.raises(StudyError) as refused:
        load_host(path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{path}: {field}: ") and message in line


@pytest.mark.parametrize("content", ["[1]", "kind: [", ""])
def test_a_file_that_is_no_host_is_refused(content: str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    with pytest.raises(StudyError, match=r"not valid YAML|a host is a mapping of fields") as refused:
        load_host(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_hosts_that_measure_under_one_name_are_refused(tmp_path: Path) -> None:
    mine = written(tmp_path, POOL, "laptop")
    with pytest.raises(StudyError, match=r"'laptop'.*once"):
        load_study("smoke").with_options(hosts=["laptop", "laptop"])
    with pytest.raises(StudyError, match=r"'laptop'.*once"):
        load_hosts(["laptop", mine])


def test_a_study_is_changed_as_a_whole_or_not_at_all() -> None:
    smoke = load_study("smoke")
    assert smoke.with_options() == smoke
    changed = smoke.with_options(["int8"], rounds=7, samples=9, hosts=["laptop", "local"])
    assert (list(changed.variants), changed.measuring.rounds, changed.data.samples) == (["original", "int8"], 7, 9)
    assert changed.hosts == ("laptop", "local")
    assert Study.model_validate_json(changed.model_dump_json()) == changed
    for change, message in (
        ({"rounds": 0}, "measuring.rounds: "),
        ({"samples": -1}, "data.samples: "),
        ({"hosts": []}, "hosts: "),
        ({"hosts": ["laptp"]}, "did you mean laptop?"),
        ({"variants": ["int9"]}, "did you mean int8?"),
    ):
        with pytest.raises(StudyError) as refused:
            smoke.with_options(**change)
        assert message in str(refused.value)


def test_every_field_says_what_it_means() -> None:
    told = {"name", "kind", "description"}
    for kind in (Local, Pool, Slurm):
        for name, field in kind.model_fields.items():
            assert name in told or field.description, f"{kind.__name__}.{name}"
    assert sorted(path.stem for path in HOSTS.iterdir()) == host_names()
