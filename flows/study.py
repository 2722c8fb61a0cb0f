"""A study: base model, data, variants, hosts and rounds; read from YAML, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from tasks.specs import (
    Base,
    BundledBase,
    Data,
    Distill,
    DynamicInt8,
    Engine,
    ExportCtranslate2,
    ExportOnnx,
    ExportOpenvino,
    FineTune,
    GroupLasso,
    Measuring,
    OnnxInt8,
    OnnxStaticInt8,
    OpenvinoInt8,
    Prebuilt,
    Preparation,
    Pretrain,
    Slim,
    Spec,
    Step,
    TrimVocabulary,
    WeightOnly,
    Work,
)

STUDIES = Path(__file__).parent / "studies"

Form = Literal[
    "checkpoint",
    "quantized checkpoint",
    "packed checkpoint",
    "graph",
    "quantized graph",
    "OpenVINO model",
    "quantized OpenVINO model",
    "CTranslate2 model",
]
# What a step can be applied to, and what becomes of it. What is quantized goes into an engine only, or into a
# distillation that leaves its integers as they are: no recipe can quantize twice.
_TAKES: dict[type[Spec], dict[Form, Form]] = {
    Pretrain: {"checkpoint": "checkpoint"},
    FineTune: {"checkpoint": "checkpoint"},
    GroupLasso: {"checkpoint": "checkpoint"},
    Slim: {"checkpoint": "checkpoint"},
    Distill: {"checkpoint": "checkpoint", "packed checkpoint": "packed checkpoint"},
    TrimVocabulary: {"checkpoint": "checkpoint"},
    Prebuilt: {"checkpoint": "checkpoint"},
    WeightOnly: {"checkpoint": "packed checkpoint"},
    DynamicInt8: {"checkpoint": "quantized checkpoint"},
    ExportOnnx: {"checkpoint": "graph"},
    OnnxInt8: {"graph": "quantized graph"},
    OnnxStaticInt8: {"graph": "quantized graph"},
    ExportOpenvino: {"checkpoint": "OpenVINO model"},
    OpenvinoInt8: {"OpenVINO model": "quantized OpenVINO model"},
    ExportCtranslate2: {"checkpoint": "CTranslate2 model"},
}
_RUNS: dict[str, tuple[Form, ...]] = {
    "torch": ("checkpoint", "quantized checkpoint", "packed checkpoint"),
    "onnxruntime": ("graph", "quantized graph"),
    "openvino": ("OpenVINO model", "quantized OpenVINO model"),
    "ctranslate2": ("CTranslate2 model",),
}


class StudyError(ValueError):
    """A study that cannot run: the message names the field, its value, and what is allowed."""


def form_after(steps: Sequence[Step], field: str) -> Form:
    """What a checkpoint has become after these steps of a study's field.

    Raises:
        ValueError: a step cannot follow the one before it.
    """
    form: Form = "checkpoint"
    for number, step in enumerate(steps):
        if isinstance(step, Engine):
            raise ValueError(f"{field}.{number}: engine {step.name} stands before the end; it must be the last step")
        made = _TAKES[type(step)]
        if form not in made:
            if _is_quantized(form) and any(map(_is_quantized, made.values())):
                raise ValueError(f"{field}.{number}: {step.step} quantizes what is quantized already; allowed: once")
            raise ValueError(f"{field}.{number}: {step.step} takes a {' or '.join(made)}, but here stands a {form}")
        form = made[form]
    return form


def _is_quantized(form: Form) -> bool:
    return form.startswith(("quantized", "packed"))


class Variant(Spec):
    """A recipe with a label that says what it claims to be."""

    label: Literal["baseline", "as published", "repaired", "ours"] = "ours"
    recipe: tuple[Step, ...]

    @model_validator(mode="after")
    def _recipe_fits_together(self) -> Self:
        if not self.recipe or not isinstance(self.recipe[-1], Engine):
            end = f"ends with {self.recipe[-1].step}" if self.recipe else "is empty"
            raise ValueError(f"recipe: {end}; the last step must be an engine ({', '.join(_RUNS)})")
        form = form_after(self.recipe[:-1], "recipe")
        if form not in _RUNS[self.engine.name]:
            allowed = " or ".join(_RUNS[self.engine.name])
            raise ValueError(f"recipe.{len(self.steps)}: engine {self.engine.name} runs a {allowed}, not a {form}")
        return self

    @property
    def steps(self) -> tuple[Work, ...]:
        """The recipe without its engine."""
        return tuple(step for step in self.recipe if not isinstance(step, Engine))

    @property
    def engine(self) -> Engine:
        """The engine at the recipe's end."""
        last = self.recipe[-1]
        assert isinstance(last, Engine)  # _recipe_fits_together has seen to it
        return last


class Study(Spec):
    """What to run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str = ""
    base: Base = BundledBase()
    prepare: tuple[Preparation, ...] = Field((), description="Steps every variant starts with, such as fine-tuning.")
    data: Data = Data()
    variants: dict[str, Variant] = Field(min_length=1)
    baseline: str = Field("original", validate_default=True)
    hosts: tuple[str, ...] = Field(("local",), min_length=1)
    measuring: Measuring = Measuring()
    seed: int = 0

    @field_validator("variants")
    @classmethod
    def _names_are_plain(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        for name in variants:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{name!r} is no name; allowed: letters, digits, '-' and '_'")
        return variants

    @field_validator("baseline")
    @classmethod
    def _baseline_is_there(cls, baseline: str, others: ValidationInfo) -> str:
        variants = others.data.get("variants", {baseline: None})  # absent where they are refused themselves
        if baseline not in variants:
            raise ValueError(unknown(baseline, variants))
        return baseline

    @field_validator("prepare")
    @classmethod
    def _prepares_a_checkpoint(cls, prepare: tuple[Preparation, ...]) -> tuple[Preparation, ...]:
        if (form := form_after(prepare, "prepare")) != "checkpoint":
            raise ValueError(f"leaves a {form}; every variant starts from a checkpoint")
        return prepare

    @model_validator(mode="after")
    def _beams_are_possible(self) -> Self:
        beams = self.measuring.decoding.beams
        for name, variant in self.variants.items():
            if beams > 1 and variant.engine.name == "ctranslate2":
                raise ValueError(f"measuring.decoding.beams: {beams} is not for {name}'s ctranslate2; allowed: 1")
        return self

    def only(self, names: Sequence[str]) -> Study:
        """The study with these variants and its baseline.

        Raises:
            StudyError: a name is not a variant of it.
        """
        for name in names:
            if name not in self.variants:
                raise StudyError(f"variants: {unknown(name, self.variants)}")
        kept = {name: variant for name, variant in self.variants.items() if name in {*names, self.baseline}}
        return self.model_copy(update={"variants": kept})


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that stands twice is an error, where PyYAML silently keeps the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


def study_names() -> list[str]:
    """The studies that ship with slimline."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name: str) -> Study:
    """A study by name, or from a YAML file.

    Raises:
        StudyError: there is no such study, or it is invalid; the message names every offending field.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else STUDIES / f"{name}.yaml"
    if not (path.is_file() if is_path else name in study_names()):
        raise StudyError(f"study: {unknown(name, study_names())}, or the path of a .yaml file")
    try:
        content = yaml.load(path.read_text("utf8"), _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError) as error:  # such as a date that does not exist
        raise StudyError(f"{path}: no YAML: {error}") from error
    except RecursionError as error:
        raise StudyError(f"{path}: no YAML: nested too deeply") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study is a mapping of fields, found {type(content).__name__}")
    return parse_study({"name": path.stem, **content})


def parse_study(content: Mapping[str, Any]) -> Study:
    """A study from plain data, or a `StudyError` that lists every problem."""
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError("\n".join(problems_of(error))) from error


def problems_of(error: ValidationError) -> Iterator[str]:
    """One line a problem: the field's path, what is allowed, and what was found."""
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "study"
        value = problem["input"]
        shown = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
        yield f"{field}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def unknown(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """Says that a name is unknown, what comes close, and what is allowed."""
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ";"
    return f"{name!r} is unknown{hint} allowed: {', '.join(known)}"
