import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from slimline.tasks.engines.base import Completion
from slimline.tasks.export.onnx_export import export_onnx
from slimline.tasks.measurement.probe import Probe, ProbeRequest
from slimline.tasks.measurement.probe_process import ProbeError, ProbeProcess, run_probe
from slimline.tasks.specs import Decoding, Engine
from tests.command import program_command

WIDTH, VOCABULARY, POSITIONS, LAYERS = 16, 61, 64, 2
FIXED = Decoding(fixed_new_tokens=4)
ENDLESS = Decoding(fixed_new_tokens=60)


def write_checkpoint(directory: Path) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"wte.weight": (VOCABULARY, WIDTH), "wpe.weight": (POSITIONS, WIDTH)}
    for layer in range(LAYERS):
        for name, inputs, outputs in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            shapes |= {f"h.{layer}.{name}.weight": (inputs, outputs), f"h.{layer}.{name}.bias": (outputs,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{name}.weight": (WIDTH,), f"h.{layer}.{name}.bias": (WIDTH,)}
    shapes |= {"ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    tensors = {f"transformer.{name}": rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    sizes = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2}
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes}
    (directory / "config.json").write_text(json.dumps({**config, "bos_token_id": 0, "eos_token_id": 0}))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def make_request(graph: Path, **change) -> ProbeRequest:
    prompts = ((1, 2, 3), (4, 5, 6, 7, 8), (9,), (10, 11, 12, 13))
    values = {
        "directory": graph,
        "engine": Engine(name="onnxruntime"),
        "threads": 1,
        "prompts": prompts,
        "decoding": FIXED,
    }
    return ProbeRequest(**{**values, "mode": "quality", **change})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def graph(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("onnx")
    export_onnx(checkpoint, directory)
    return directory


@pytest.fixture
def request_for(graph):
    return partial(make_request, graph)


@pytest.fixture(scope="module")
def one_by_one(graph):
    return run_probe(make_request(graph), timeout_s=600).completions


@pytest.fixture
def endless(request_for):
    return request_for(decoding=ENDLESS, prompts=((1, 2),) * 20_000)


def children():
    below = psutil.Process().children(recursive=True)
    # One that has just ended is listed, but has no command line any more.
    commands = psutil.process_iter(["pid", "cmdline"])
    return [
        one for one in commands if one in below and "slimline.tasks.measurement.probe" in (one.info["cmdline"] or [])
    ]


@pytest.fixture(scope="module")
def speed(graph):
    return run_probe(make_request(graph, mode="speed", warmup=5, prompts=((1, 2, 3), (4, 5, 6, 7, 8))), timeout_s=600)


def test_speed_times_every_prompt_in_order(speed):
    assert [timing.prompt_tokens for timing in speed.timings] == [3, 5]
    assert {(timing.new_tokens, timing.decode_passes) for timing in speed.timings} == {(4, 3)}
    for timing in speed.timings:
        assert 0 < timing.prefill_s + timing.decode_s <= timing.latency_s
    assert sum(timing.latency_s for timing in speed.timings) <= speed.wall_s < 5
    assert speed.load_s > 0
    assert speed.started < speed.finished
    assert speed.pid != os.getpid()
    assert speed.completions == []


def test_passes_begin_until_the_turn_has_lasted(graph):
    found = run_probe(make_request(graph, mode="speed", least_s=0.3), 60)
    assert found.passes > 1 and len(found.timings) == 4 * found.passes
    assert found.wall_s >= 0.3
    assert [timing.prompt_tokens for timing in found.timings] == [3, 5, 1, 4] * found.passes


class Recorder:
    """An engine that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def complete(self, prompts, stop, decoding):
        self.asked.append((prompts, tuple(stop), decoding))
        return [Completion([], 0.0, 0.0)]


def test_equal_work_is_the_tokens_that_the_request_names_whatever_ends_a_line(request_for, monkeypatch):
    engine = Recorder()
    monkeypatch.setattr("slimline.tasks.engines.base.load_engine", lambda *_: engine)
    decoding = Decoding(beams=2, max_new_tokens=9)
    probe = Probe(request_for(mode="speed", stop=(7,), new_tokens=(1, 2, 3, 4), decoding=decoding))
    seconds = probe.take_turn([2, 0])
    assert len(seconds) == 2 and all(each >= 0 for each in seconds)
    expected = [decoding.model_copy(update={"fixed_new_tokens": count}) for count in (3, 1)]
    assert engine.asked == [([(9,)], (), expected[0]), ([(1, 2, 3)], (), expected[1])]


def test_a_turn_ends_when_the_process_is_quiet(request_for, monkeypatch):
    """Threads that still spin for three looks, a whole CPU each time, are waited for."""
    monkeypatch.setattr("slimline.tasks.engines.base.load_engine", lambda *_: Recorder())
    probe = Probe(request_for(mode="speed", new_tokens=(1, 2, 3, 4)))
    looks, used = [], iter([0.0, 0.005, 0.005, 0.01, 0.01, 0.015, 0.015, 0.0151])
    monkeypatch.setattr("time.sleep", looks.append)
    monkeypatch.setattr("time.process_time", lambda: next(used))
    probe.take_turn([0])
    assert len(looks) == 4


def test_a_process_that_has_measured_alone_takes_turns(request_for):
    with ProbeProcess(request_for(mode="speed", new_tokens=(1, 2, 3, 4))) as process:
        assert len(process.result(600).timings) == 4
        for samples in ([3], [0, 1, 2]):
            assert [each > 0 for each in process.take_turn(samples, 600)] == [True] * len(samples)
        assert process.is_alive
        (child,) = children()
        child.kill()
        with pytest.raises(ProbeError, match="SIGKILL"):
            process.take_turn([0], 600)
        assert not process.is_alive
    assert children() == []


def test_a_turn_that_fails_says_why(request_for):
    with ProbeProcess(request_for(mode="speed", new_tokens=(1, 1, 1, 61))) as process:
        process.result(600)
        with pytest.raises(ProbeError, match=r"prompt 0 has 4 tokens; allowed: 1 to 3"):
            process.take_turn([3], 600)


def test_the_probe_itself_is_small(speed):
    assert 10 < speed.base_mb < 100
    assert speed.memory_mb > speed.base_mb
    assert speed.memory_over_base_mb == pytest.approx(speed.memory_mb - speed.base_mb)


def test_peak_memory_is_not_inherited_from_a_big_parent(request_for):
    ballast = np.ones(25_000_000)
    memory_mb = run_probe(request_for(mode="speed"), timeout_s=600).memory_mb
    assert memory_mb < 150 < ballast.nbytes / 1e6


def test_quality_gives_the_same_completions_in_order_whatever_the_batch(request_for, one_by_one):
    assert [len(completion) for completion in one_by_one] == [4, 4, 4, 4]
    assert len(set(map(tuple, one_by_one))) > 1
    assert run_probe(request_for(batch_size=3), timeout_s=600).completions == one_by_one
    alone = run_probe(request_for(prompts=((10, 11, 12, 13),)), timeout_s=600)
    assert alone.completions == one_by_one[3:]


def test_progress_counts_samples_to_the_end(request_for):
    seen = []
    run_probe(request_for(batch_size=3), timeout_s=600, on_progress=lambda *progress: seen.append(progress))
    assert seen == [(3, 4), (4, 4)]


def test_the_torch_engine_runs_here_too(checkpoint, request_for, one_by_one):
    result = run_probe(request_for(engine=Engine(name="torch"), directory=checkpoint, batch_size=2), timeout_s=600)
    assert result.completions == one_by_one
    assert result.base_mb < 100 < result.memory_over_base_mb


@pytest.mark.skipif(sys.platform != "linux", reason="CPU affinity is Linux's")
def test_the_probe_is_pinned_and_told_its_threads(request_for):
    seen = {}

    def look(_done, _total):
        (child,) = children()
        seen.update(child.environ(), cpus=child.cpu_affinity(), threads=child.num_threads())

    run_probe(request_for(cpus=(max(os.sched_getaffinity(0)),), threads=1, batch_size=1), 60, look)
    assert seen["cpus"] == [max(os.sched_getaffinity(0))]
    assert seen["threads"] == 1
    expected = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}
    assert expected.items() <= seen.items()


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"directory": Path("/nowhere")}, 1, "config.json"),
        ({"engine": Engine(name="torch")}, 1, "model.safetensors"),
        ({"prompts": ((VOCABULARY,),)}, 1, "allowed: 0 to 60"),
        ({"cpus": (9999,)}, 2, "cpus: [9999] are not all usable by this process"),
    ],
)
def test_a_failure_has_its_status_and_last_lines(request_for, change, status, message):
    with pytest.raises(ProbeError) as caught:
        run_probe(request_for(**change), timeout_s=600)
    assert (caught.value.status, caught.value.reason) == (status, f"ended with exit status {status}")
    assert message in caught.value.stderr[-1]
    assert message in str(caught.value)


def test_a_timeout_kills_and_waiting_for_it_costs_no_cpu(endless):
    before = time.process_time()
    with pytest.raises(ProbeError, match=r"timeout.*1\.2 s") as caught:
        run_probe(endless.model_copy(update={"mode": "speed"}), timeout_s=1.2)
    assert caught.value.status == -signal.SIGKILL
    assert children() == []
    assert time.process_time() - before < 0.3


def test_a_killed_probe_says_which_signal(endless):
    def kill(_done, _total):
        for child in children():  # none at what it had said before it was killed
            child.kill()

    with pytest.raises(ProbeError, match=r"SIGKILL.*memory"):
        run_probe(endless, timeout_s=600, on_progress=kill)


def test_a_callback_that_raises_abandons_the_measurement(endless):
    def give_up(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_probe(endless, timeout_s=600, on_progress=give_up)
    assert children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_the_probe_dies_with_its_parent(endless):
    command = program_command(Path(__file__).with_name("programs") / "start_probe.py")
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as parent:
        # Speed mode is silent: a probe that reports progress would also die of the broken pipe.
        parent.stdin.write(endless.model_copy(update={"mode": "speed"}).model_dump_json())
        parent.stdin.close()
        probe = wait_for_a_loaded_child(parent.pid)
        parent.kill()
    _, alive = psutil.wait_procs([probe], timeout=600)
    assert alive == []


def wait_for_a_loaded_child(pid):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if child.memory_info().rss > 60e6:
                return child
        time.sleep(0.02)
    raise AssertionError("no probe was started")


def test_a_probe_whose_parent_is_gone_does_not_begin(request_for):
    done = run_by_hand(request_for().model_dump_json(), "1")
    assert done.returncode == 1
    assert "the parent process ended before the work began" in done.stderr


def run_by_hand(stdin: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slimline.tasks.measurement.probe", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_by_hand_standard_output_is_progress_and_the_result(request_for):
    done = run_by_hand(request_for().model_dump_json())
    *progress, result = map(json.loads, done.stdout.splitlines())
    assert progress[-1] == {"progress": [4, 4]}
    assert len(result["completions"]) == 4


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "Invalid JSON"),
        ('{"threads": 0}', "threads\n"),
        ('{"colour": 1}', "colour\n  Extra inputs are not permitted"),
    ],
)
def test_a_bad_request_is_refused_with_the_field(stdin, message):
    done = run_by_hand(stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ()}, "prompts"),
        ({"prompts": ((1,), ())}, r"prompts\.1 is empty"),
        ({"cpus": ()}, "cpus"),
        ({"mode": "both"}, "'speed' or 'quality'"),
        ({"new_tokens": (1, 2)}, "new_tokens has 2 numbers; allowed: 4"),
        ({"new_tokens": (0, 1, 1, 1)}, r"new_tokens\.0"),
    ],
)
def test_requests_are_checked_where_they_are_made(request_for, change, message):
    with pytest.raises(ValueError, match=message):
        request_for(**change)
