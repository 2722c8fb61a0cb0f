"""One row a recipe step: what slimline knows of it besides the code of its function.

To add a step, write its spec in `specs`, its function in a module of tasks/, and its row here: studies, builds, cache
keys, forms and parity checks follow. A step of a user's own has no row: `user_row` makes one of its function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from slimline.tasks import outside
from slimline.tasks.forms import ENGINE_OF, KIND_OF, Form, Kind
from slimline.tasks.specs import (
    BundledBase,
    Data,
    Distill,
    DynamicInt8,
    EngineName,
    ExportCtranslate2,
    ExportOnnx,
    ExportOpenvino,
    External,
    FineTune,
    GroupLasso,
    HubBase,
    ItrexPrune,
    ItrexQuantize,
    MpPtq,
    OnnxInt8,
    OnnxLowBit,
    OnnxStaticInt8,
    OpenvinoInt8,
    PathBase,
    PegPtq,
    PrebuiltModel,
    Pretrain,
    RandomBase,
    ReduceLayers,
    ScoreStep,
    Slim,
    Spec,
    StepSpec,
    TrimVocabulary,
    UserStep,
    WeightOnly,
    Xtc,
)

F = TypeVar("F", bound=Callable[..., Any])


class Bound(NamedTuple):
    """How far a result's logits may be from its input's: what only rounds differently is bounded.

    Rounding grows with what is rounded, so logits above `usual` in size may differ by more, in proportion.
    """

    max_abs: float = 1e-3
    usual: float = 100.0

    def of(self, spec: Spec, size: float) -> float | None:
        """The bound of one step, for logits up to `size`; none if it quantizes, which is left to EM and ES to judge."""
        if getattr(spec, "precision", "float32") == "int8":
            return None
        return self.max_abs * max(1.0, size / self.usual)


def _nothing(spec: Any) -> str:
    return ""


@dataclass(frozen=True)
class StepRow:
    """A row of the registry."""

    spec: type[Spec]
    function: str
    """`module:function`; imported only when it runs, so that a step whose result is cached costs no import of torch."""
    gets: str
    """What the function is called with, in order: `spec`, a field of the spec, or one of these paths: `model` (the
    step's input), `teacher` (the study's prepared base), `data` (the slice), `target` (the empty directory for the
    result), `work` (a directory that outlives a kill, so that the step can resume)."""
    takes: Mapping[Form, Form]
    """The forms that the step can be applied to, and what becomes of each; empty for what takes no model."""
    makes: Kind | None = None
    """The kind of artifact, where no form says it."""
    bound: Bound | None = None
    """Of the logits' parity. None: parity is reported only. Steps that leave the form as it is have none."""
    reads: Callable[[Any], str] = _nothing
    """Digest of what the step looks at outside the store and outside its code: files, or the host it runs on."""
    opens: Callable[[Any], Form] | None = None
    """For a step that takes no model, and is a recipe's first one: the form of the model that it reads from outside."""

    @property
    def module(self) -> str:
        """The module that the function is in."""
        return self.function.partition(":")[0]

    def needs(self, name: str) -> bool:
        """Whether the function gets that path, such as `teacher`."""
        return name in self.gets.split()

    def call(self, spec: Spec, paths: Mapping[str, Path]) -> dict[str, Any]:
        """Run the function; its notes for the provenance."""
        values = {"spec": spec, **paths}
        function = getattr(import_module(self.module), self.function.partition(":")[2])
        notes = function(*(values[name] if name in values else getattr(spec, name) for name in self.gets.split()))
        return dict(notes or {})

    def kind_made(self, taken: str | None) -> Kind:
        """The kind of artifact that is made of one of kind `taken`."""
        kinds: dict[str | None, Kind] = {KIND_OF[form]: KIND_OF[made] for form, made in self.takes.items()}
        return self.makes or kinds[taken]

    def changes_form(self) -> bool:
        """Whether the result is the same model in another form, which is compared with the input."""
        return any(taken != made for taken, made in self.takes.items())


# ------------------------------------------------------------------------------------------------------- the registry

_TRAINS = "spec model data target work"
_CHECKPOINT: dict[Form, Form] = {"checkpoint": "checkpoint"}
RECIPE_ROWS = (
    StepRow(Pretrain, "slimline.tasks.training.pretrain:pretrain", _TRAINS, _CHECKPOINT),
    StepRow(FineTune, "slimline.tasks.training.finetune:fine_tune", _TRAINS, _CHECKPOINT),
    StepRow(GroupLasso, "slimline.tasks.pruning.group_lasso:group_lasso", _TRAINS, _CHECKPOINT),
    StepRow(ItrexPrune, "slimline.tasks.itrex.pruning:prune", _TRAINS, _CHECKPOINT, reads=outside.itrex_environment),
    StepRow(Slim, "slimline.tasks.pruning.slim:slim", "spec model data target", _CHECKPOINT, reads=outside.timing_host),
    StepRow(
        Distill,
        "slimline.tasks.training.distill:distill",
        "spec model teacher data target work",
        {"checkpoint": "checkpoint", "packed checkpoint": "packed checkpoint"},  # its integers stay as they are
    ),
    StepRow(Xtc, "slimline.tasks.training.xtc:xtc", "spec model teacher data target work", _CHECKPOINT),
    StepRow(ReduceLayers, "slimline.tasks.pruning.layers:reduce_layers", "model target spec", _CHECKPOINT),
    StepRow(TrimVocabulary, "slimline.tasks.pruning.vocabulary:trim_vocabulary", "model target spec", _CHECKPOINT),
    StepRow(
        PrebuiltModel,
        "slimline.tasks.models.bases:unpack_prebuilt",
        "model target spec",
        _CHECKPOINT,
        reads=outside.bundled_files,
    ),
    StepRow(
        External,
        "slimline.tasks.external.adoption:adopt",
        "spec target",
        {},
        reads=lambda spec: outside.local_files(spec.directory),
        opens=outside.form_of,
    ),
    StepRow(
        DynamicInt8,
        "slimline.tasks.quantization.dynamic_int8:quantize_linear_only",
        "model target",
        {"checkpoint": "quantized checkpoint"},
    ),
    StepRow(
        ItrexQuantize,
        "slimline.tasks.itrex.quantization:quantize",
        "model target",
        {"checkpoint": "quantized checkpoint"},
        reads=outside.itrex_environment,
    ),
    StepRow(
        WeightOnly,
        "slimline.tasks.quantization.weight_only:quantize_weights",
        "model target spec data",
        {"checkpoint": "packed checkpoint"},
    ),
    StepRow(
        ExportOnnx,
        "slimline.tasks.export.onnx_export:export_onnx",
        "model target",
        {"checkpoint": "graph"},
        bound=Bound(),
    ),
    StepRow(
        OnnxInt8,
        "slimline.tasks.quantization.onnx_int8:quantize_onnx",
        "model target per_channel weight_bits",
        {"graph": "quantized graph"},
        reads=outside.weight_bits,
    ),
    StepRow(
        OnnxLowBit,
        "slimline.tasks.quantization.onnx_low_bit:quantize_onnx_low_bit",
        "model target spec",
        {"graph": "quantized graph"},
        reads=outside.weight_bits,
    ),
    StepRow(
        OnnxStaticInt8,
        "slimline.tasks.quantization.onnx_static_int8:quantize_onnx_static",
        "model target spec data",
        {"graph": "quantized graph"},
        reads=outside.weight_bits,
    ),
    StepRow(
        MpPtq,
        "slimline.tasks.quantization.onnx_mixed_precision:quantize_mixed_precision",
        "model target spec data",
        {"graph": "quantized graph"},
        reads=outside.weight_bits,
    ),
    StepRow(
        PegPtq,
        "slimline.tasks.quantization.onnx_group_int8:quantize_groups",
        "model target spec data",
        {"graph": "quantized graph"},
        reads=outside.weight_bits,
    ),
    StepRow(
        ExportOpenvino,
        "slimline.tasks.export.openvino_export:export_openvino",
        "model target",
        {"checkpoint": "OpenVINO model"},
        bound=Bound(),
    ),
    StepRow(
        OpenvinoInt8,
        "slimline.tasks.quantization.openvino_int8:quantize_openvino",
        "model target spec data",
        {"OpenVINO model": "quantized OpenVINO model"},
        reads=outside.weight_bits,
    ),
    StepRow(
        ExportCtranslate2,
        "slimline.tasks.export.ctranslate2_export:export_ctranslate2",
        "model target spec",
        {"checkpoint": "CTranslate2 model"},
        bound=Bound(),
        reads=outside.weight_bits,
    ),
)
_BASE = "slimline.tasks.models.bases:make_base"
_OTHER_ROWS = (
    StepRow(Data, "slimline.tasks.data.slices:prepare_slice", "spec target", {}, "slice", reads=outside.source_files),
    StepRow(HubBase, _BASE, "spec data target", {}, "model", reads=lambda spec: outside.local_files(Path(spec.id))),
    StepRow(PathBase, _BASE, "spec data target", {}, "model", reads=lambda spec: outside.local_files(spec.directory)),
    StepRow(BundledBase, _BASE, "spec data target", {}, "model", reads=outside.bundled_files),
    StepRow(RandomBase, _BASE, "spec data target", {}, "model", reads=outside.bundled_files),
    StepRow(
        ScoreStep,
        "slimline.tasks.measurement.completions:complete_samples",
        "spec model data target",
        {},
        "predictions",
        reads=outside.int8_of_host,
    ),
)
_ROWS: dict[type[Spec], StepRow] = {row.spec: row for row in RECIPE_ROWS + _OTHER_ROWS}


def row_of(spec: Spec) -> StepRow:
    """The row of a step.

    Raises:
        ValueError: it is a user's own, and as `user_row`.
    """
    return user_row(spec.step) if isinstance(spec, UserStep) else _ROWS[type(spec)]


def forms_run_by(engine: EngineName) -> list[Form]:
    """The forms of a model that an engine runs."""
    return [form for form, kind in KIND_OF.items() if ENGINE_OF[kind] == engine]


# ---------------------------------------------------------------------------------------------- steps of a user's own

_PATHS = ("model", "teacher", "data", "target", "work")


def recipe_step(takes: Form = "checkpoint", makes: Form = "checkpoint") -> Callable[[F], F]:
    """Decorator of a step's function in a user's own module, for a step that does not make a checkpoint of another.

    Args:
        takes: The form of a model that the step can be applied to.
        makes: The form that it makes of it.
    """
    for form in (takes, makes):
        if form not in KIND_OF:
            raise ValueError(f"recipe_step: {form!r} is not a form; allowed: {', '.join(KIND_OF)}")

    def declare(function: F) -> F:
        vars(function)["takes"] = {takes: makes}
        return function

    return declare


@lru_cache(maxsize=256)
def user_row(name: str) -> StepRow:
    """The row of a step of a user's own, from its function; imports the module that the function is in.

    Args:
        name: `module:function`.

    Raises:
        ValueError: there is no such function, or it is not one of a step; the message says what is needed.
    """
    module, _, attribute = name.partition(":")
    imported = _user_module(name, module)
    function = getattr(imported, attribute, None)
    if not inspect.isfunction(function):
        where = getattr(imported, "__file__", None) or "not a file"  # built into Python, or a folder
        raise ValueError(f"step: {name!r}: {module} ({where}) has no function {attribute}")
    spec, *paths = _user_parameters(name, function)
    gets = " ".join(["spec", *(parameter.name for parameter in paths)])
    return StepRow(spec.annotation, name, gets, getattr(function, "takes", _CHECKPOINT))


def _user_parameters(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a step's function: the spec, then directories, `target` among them.

    Raises:
        ValueError: they are others, or the function is not an ordinary one.
    """
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(function) for is_kind in kinds):
        raise ValueError(f"step: {name!r}: it is a generator or async; allowed: an ordinary function")
    try:
        found = list(inspect.signature(function, eval_str=True).parameters.values())
    except Exception as error:  # an annotation is any expression
        reason = f"its parameters cannot be read: {type(error).__name__}: {error}"
        raise ValueError(f"step: {name!r}: {reason}; allowed: spec, {_ALLOWED}") from error
    first = found[0].annotation if found else None
    if not (inspect.isclass(first) and issubclass(first, StepSpec)):
        raise ValueError(f"step: {name!r}: the first parameter is of {first!r}; allowed: a StepSpec of yours")
    for parameter in found[1:]:
        if parameter.name not in _PATHS or parameter.kind != parameter.POSITIONAL_OR_KEYWORD:
            raise ValueError(f"step: {name!r}: parameter {parameter}; allowed after the spec: {_ALLOWED}")
    if "target" not in [parameter.name for parameter in found]:
        raise ValueError(f"step: {name!r}: it has no parameter target, the directory for its result")
    return found


_ALLOWED = f"{', '.join(_PATHS)}, as ordinary parameters"


def _user_module(name: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            reason = f"there is no module {error.name}; allowed: one beside the study's file, or an installed one"
        else:
            reason = f"{module} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"step: {name!r}: {reason}") from error
