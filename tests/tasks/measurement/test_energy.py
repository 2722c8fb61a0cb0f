import pytest

from slimline.tasks.measurement.energy import joules_between, read_counters


@pytest.fixture
def powercap(tmp_path):
    def set_domain(domain: str, name: str, energy_uj: int | str, max_range: int = 1_000_000_000) -> None:
        directory = tmp_path / domain
        directory.mkdir(exist_ok=True)
        for file, value in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", max_range)):
            (directory / file).write_text(f"{value}\n")

    set_domain("intel-rapl:0", "package-0", 5_000_000)
    return tmp_path, set_domain


def test_joules_are_summed_over_packages_only(powercap):
    root, set_domain = powercap
    set_domain("intel-rapl:1", "package-1", 0)
    set_domain("intel-rapl:0:0", "core", 0)
    set_domain("intel-rapl:2", "psys", 0)
    set_domain("intel-rapl-mmio:0", "package-0", 0)
    before = read_counters(root)
    assert list(before) == ["intel-rapl:0", "intel-rapl:1"]
    set_domain("intel-rapl:0", "package-0", 7_500_000)
    set_domain("intel-rapl:1", "package-1", 1_000_000)
    set_domain("intel-rapl:2", "psys", 99_000_000)
    assert joules_between(before, read_counters(root)) == pytest.approx(3.5)


def test_a_counter_that_wraps_around(powercap):
    root, set_domain = powercap
    set_domain("intel-rapl:0", "package-0", 999_000_000)
    before = read_counters(root)
    set_domain("intel-rapl:0", "package-0", 2_000_000)
    assert joules_between(before, read_counters(root)) == pytest.approx(3.0)


def test_what_cannot_be_read_is_none_rather_than_part_of_the_sum(powercap):
    root, set_domain = powercap
    whole = read_counters(root)
    set_domain("intel-rapl:1", "package-1", "garbled")
    assert read_counters(root) is None
    assert joules_between(whole, None) is None
    assert joules_between(None, whole) is None


def test_packages_that_change_are_not_compared(powercap):
    root, set_domain = powercap
    before = read_counters(root)
    set_domain("intel-rapl:1", "package-1", 9)
    assert joules_between(before, read_counters(root)) is None


def test_no_tree(tmp_path):
    assert read_counters(tmp_path / "absent") is None
