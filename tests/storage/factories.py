from datetime import UTC, datetime

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def contents(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def run_row(run="r1", started=NOON, **changes):
    row = {"run": run, "study": "embedded", "started": started, "finished": started, "host": "box", "status": "ok"}
    return row | {"baseline": "original", "rounds": 3, "samples": 200, "noise_floor": 0.02, "tainted": False} | changes


def measured(variant, metric, value, run="r1", time=NOON, **changes):
    row = {"run": run, "study": "embedded", "host": "box", "variant": variant, "metric": metric, "value": value}
    return row | {"time": time, "metric_version": 1, "label": "repaired", "random_weights": False} | changes
