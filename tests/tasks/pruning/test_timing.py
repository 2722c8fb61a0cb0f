"""The timing process on tiny models: real engines, no asserted times."""

from __future__ import annotations

import pytest

from slimline.tasks.pruning.shapes import Shape
from slimline.tasks.pruning.timing import TimedOn, TimingRequest, time_shapes
from slimline.tasks.runtime.host import usable_cpus

SMALL = Shape(layers=1, heads=2, width=32, inner=48, vocabulary=61, positions=32)


def request(timed_on: TimedOn, *shapes: Shape) -> TimingRequest:
    cpus = tuple(usable_cpus()[:1])
    return TimingRequest(timed_on=timed_on, threads=1, cpus=cpus, prompt_tokens=16, shapes=shapes, seconds=0.1)


@pytest.mark.parametrize("timed_on", ["torch", "onnxruntime", "onnxruntime-int8"])
def test_every_shape_is_timed_in_every_round(timed_on: TimedOn) -> None:
    larger = SMALL._replace(layers=2, heads=4, width=64, vocabulary=99)
    seconds = time_shapes(request(timed_on, SMALL, larger))
    assert seconds.shape == (2, 5, 2)
    assert (seconds > 0).all()


def test_a_shape_the_engine_cannot_run_is_an_error_that_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"onnxruntime.*status 1.*n_head.*12.*8"):
        time_shapes(request("onnxruntime", SMALL._replace(width=24)))
