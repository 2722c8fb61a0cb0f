"""Steps that make artifacts: from references to references, through the store, with provenance.

Each function is a plain one, without Prefect: `tasks/steps.py` is its door. The work itself is in the rooms; here a
step's inputs are looked up, its result is published, and what it depends on is named.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.paths import BUNDLED, home
from slimline.tasks.export.parity import Loadable, parity_in_new_process, reference_in_new_process
from slimline.tasks.runtime.code_hash import code_hash, step_libraries
from slimline.tasks.runtime.host import describe_host, usable_threads
from slimline.tasks.specs import (
    Base,
    BundledBase,
    Calibration,
    Conversion,
    Data,
    Distill,
    DynamicInt8,
    Engine,
    EngineName,
    ExportCtranslate2,
    ExportOnnx,
    ExportOpenvino,
    HubBase,
    OnnxInt8,
    PathBase,
    Prebuilt,
    RandomBase,
    Scoring,
    Slim,
    Spec,
    TrainingStep,
)

Making = Callable[..., dict[str, Any]]


class StepKind(NamedTuple):
    """Where a step's code is, and the kind of artifact it makes."""

    module: str
    function: str
    makes: Literal["slice", "model", "packed", "onnx", "openvino", "ctranslate2", "predictions"]

    def load(self) -> Making:
        """The step's function; imported only when it runs, so that a cached step costs no torch import."""
        making: Making = getattr(import_module(self.module), self.function)
        return making


KINDS: dict[str, StepKind] = {
    "data": StepKind("slimline.tasks.data.slices", "prepare_slice", "slice"),
    "base": StepKind("slimline.tasks.models.bases", "make_base", "model"),
    "pretrain": StepKind("slimline.tasks.training.pretrain", "pretrain", "model"),
    "fine-tune": StepKind("slimline.tasks.training.finetune", "fine_tune", "model"),
    "group-lasso": StepKind("slimline.tasks.pruning.group_lasso", "group_lasso", "model"),
    "slim": StepKind("slimline.tasks.pruning.slim", "slim", "model"),
    "distill": StepKind("slimline.tasks.training.distill", "distill", "model"),
    "trim-vocabulary": StepKind("slimline.tasks.pruning.vocabulary", "trim_vocabulary", "model"),
    "prebuilt": StepKind("slimline.tasks.models.bases", "unpack_prebuilt", "model"),
    "dynamic-int8": StepKind("slimline.tasks.quantization.dynamic_int8", "quantize_linear_only", "model"),
    "export-onnx": StepKind("slimline.tasks.export.onnx_export", "export_onnx", "onnx"),
    "onnx-int8": StepKind("slimline.tasks.quantization.onnx_int8", "quantize_onnx", "onnx"),
    "onnx-static-int8": StepKind("slimline.tasks.quantization.onnx_static_int8", "quantize_onnx_static", "onnx"),
    "export-openvino": StepKind("slimline.tasks.export.openvino_export", "export_openvino", "openvino"),
    "openvino-int8": StepKind("slimline.tasks.quantization.openvino_int8", "quantize_openvino", "openvino"),
    "export-ctranslate2": StepKind("slimline.tasks.export.ctranslate2_export", "export_ctranslate2", "ctranslate2"),
    "weight-only": StepKind("slimline.tasks.quantization.weight_only", "quantize_weights", "packed"),
    "score": StepKind("slimline.tasks.measurement.completions", "complete_samples", "predictions"),
}


def kind_name(spec: Spec) -> str:
    """The step's name in `KINDS`: a recipe step's own, or that of the slice or the base."""
    if isinstance(spec, Data):
        return "data"
    return str(getattr(spec, "step", "base"))


# ------------------------------------------------------------------------------------------------------------ the steps


def prepare_data(spec: Data, store: ArtifactStore) -> ArtifactRef:
    """The data slice of a study."""
    return _make(spec, (), store, lambda target: (spec, target))


def make_base(spec: Base, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """The base model of a study; the slice matters only where a tokenizer is learnt from it."""
    used = _used(spec, [slice_])
    return _make(spec, used, store, lambda target: (spec, store.path(slice_), target), _reference)


def train(spec: TrainingStep, model: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """A trained model: pre-trained, fine-tuned or pruned. A killed training resumes from its last checkpoint."""
    return _train(spec, (model, slice_), store)


def distill(
    spec: Distill, model: ArtifactRef, teacher: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore
) -> ArtifactRef:
    """A model that has learnt from its teacher; resumes as `train` does."""
    return _train(spec, (model, teacher, slice_), store)


def _train(spec: TrainingStep | Distill, inputs: Sequence[ArtifactRef], store: ArtifactStore) -> ArtifactRef:
    paths = [store.path(ref) for ref in inputs]
    with _work_directory(spec, inputs) as work:
        return _make(spec, inputs, store, lambda target: (spec, *paths, target, work), _reference)


def convert(spec: Conversion, model: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """A model in another form, made without any data."""
    source = store.path(model)
    check = partial(_parity, spec, source)
    return _make(spec, (model,), store, lambda target: (source, target, *_parameters(spec)), check)


def calibrate(spec: Calibration, model: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """A model quantized with what it computes on the slice's training files."""
    source, data = store.path(model), store.path(slice_)
    check = partial(_parity, spec, source)
    return _make(spec, (model, slice_), store, lambda target: (source, target, spec, data), check)


def _parameters(spec: Conversion) -> tuple[Any, ...]:
    """What a conversion's function takes besides the two directories."""
    if isinstance(spec, OnnxInt8):
        return (spec.per_channel,)
    return () if isinstance(spec, DynamicInt8 | ExportOnnx | ExportOpenvino) else (spec,)


class _Comparison(NamedTuple):
    """The engine that runs a step's input, the one that runs its result, and how far their logits may be apart.

    An export only rounds differently; what quantization does is measured, and left to EM and ES to judge.
    """

    before: EngineName
    after: EngineName
    bound: float | None


_PARITY: dict[str, _Comparison] = {
    "dynamic-int8": _Comparison("torch", "torch", None),
    "weight-only": _Comparison("torch", "torch", None),
    "export-onnx": _Comparison("torch", "onnxruntime", 1e-3),
    "onnx-int8": _Comparison("onnxruntime", "onnxruntime", None),
    "onnx-static-int8": _Comparison("onnxruntime", "onnxruntime", None),
    "export-openvino": _Comparison("torch", "openvino", 1e-3),
    "openvino-int8": _Comparison("openvino", "openvino", None),
    "export-ctranslate2": _Comparison("torch", "ctranslate2", 1e-3),
}


def _parity(spec: Conversion | Calibration, source: Path, target: Path) -> dict[str, Any]:
    """Parity of a step's result with its input; what changes the vocabulary has none, but still is loaded anew."""
    if spec.step not in _PARITY:
        return _reference(target)
    before, after, bound = _PARITY[spec.step]
    if isinstance(spec, ExportCtranslate2) and spec.precision == "int8":
        bound = None
    found = parity_in_new_process(Loadable(Engine(name=before), source), Loadable(Engine(name=after), target))
    if bound is not None and found.max_abs > bound:
        raise ValueError(f"{spec.step}: logits differ by {found.max_abs:g}, allowed: {bound:g}")
    agreement = {"parity_bound": bound, "greedy_agreement": found.greedy_agreement}
    return {"parity_max_abs": found.max_abs, **agreement, "reference": found.reference}


def _reference(target: Path) -> dict[str, Any]:
    return {"reference": reference_in_new_process(Loadable(Engine(name="torch"), target))}


def complete(spec: Scoring, model: ArtifactRef, slice_: ArtifactRef, store: ArtifactStore) -> ArtifactRef:
    """A model's completions of the slice's samples."""
    paths = (store.path(model), store.path(slice_))
    return _make(spec, (model, slice_), store, lambda target: (spec, *paths, target))


def _make(
    spec: Spec,
    inputs: Sequence[ArtifactRef],
    store: ArtifactStore,
    arguments: Callable[[Path], tuple[Any, ...]],
    check: Callable[[Path], dict[str, Any]] = lambda target: {},
) -> ArtifactRef:
    kind = KINDS[kind_name(spec)]
    started = time.monotonic()
    with store.stage() as target:
        notes = kind.load()(*arguments(target))
        notes |= check(target)
        provenance = Provenance(
            step={"step": kind_name(spec), **spec.model_dump(mode="json")},
            inputs=list(inputs),
            versions=step_libraries(kind.module),
            host=platform.node(),
            created=datetime.now(UTC),
            seconds=time.monotonic() - started,
            notes={**_inherited(inputs, store), **notes},
        )
        return store.publish(target, _kind_made(spec, inputs), provenance)


def _kind_made(spec: Spec, inputs: Sequence[ArtifactRef]) -> str:
    """What a step makes; what recovers by distillation stays what it was."""
    return inputs[0].kind if isinstance(spec, Distill) else KINDS[kind_name(spec)].makes


def _inherited(inputs: Sequence[ArtifactRef], store: ArtifactStore) -> dict[str, Any]:
    """Random weights stay random whatever is done to them, short of pre-training."""
    return {"random_weights": any(store.provenance(ref).notes.get("random_weights") for ref in inputs)}


@contextmanager
def _work_directory(spec: Spec, inputs: Sequence[ArtifactRef]) -> Iterator[Path]:
    """Where a step keeps what lets it resume after a kill: found again by its cache key, removed once it is done."""
    work = home() / "work" / step_key(spec, inputs)[:16]
    yield work
    shutil.rmtree(work, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ cache key


def step_key(spec: Spec, inputs: Sequence[ArtifactRef]) -> str:
    """What a step's result depends on: its spec, its inputs' content, its code, its libraries, and files outside."""
    kind = KINDS[kind_name(spec)]
    parts = (
        kind_name(spec),
        spec.model_dump_json(),
        *(ref.digest for ref in _used(spec, inputs)),
        code_hash(kind.module),
        _outside(spec),
    )
    return sha256("\0".join(parts).encode()).hexdigest()


def _used(spec: Spec, inputs: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
    """The inputs a step looks at: a base depends on the slice only if it learns its tokenizer from it."""
    is_base = isinstance(spec, HubBase | PathBase | BundledBase | RandomBase)
    learns = isinstance(spec, RandomBase) and spec.tokenizer == "train"
    return () if is_base and not learns else inputs


def _outside(spec: Spec) -> str:
    """Digest of what a step looks at outside the store: files, or the host it runs on."""
    if isinstance(spec, Data):
        from slimline.tasks.data.sources import source_digest

        return source_digest(spec.origin)
    if isinstance(spec, PathBase):
        return directory_digest(spec.directory)
    if isinstance(spec, BundledBase | RandomBase | Prebuilt):
        return directory_digest(BUNDLED)
    if isinstance(spec, Slim) and spec.speedup is not None:
        return f"{describe_host().fingerprint} {usable_threads()}"  # whose latency table decides
    return spec.revision if isinstance(spec, HubBase) else ""


def directory_digest(directory: Path) -> str:
    """SHA-256 over the names and contents of a directory's files; of a missing one, that of nothing."""
    digest = sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(directory)}\0".encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()
