"""A study: base model, data, variants, hosts and rounds; read from YAML, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, WithJsonSchema, field_validator, model_validator

from slimline.flows.config.host import Local, Pool, Slurm, load_hosts
from slimline.flows.config.loader import StudyError, find_file, names_in, problems_of, read_fields, unknown
from slimline.tasks.specs import (
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

__all__ = [
    "STUDIES",
    "Study",
    "StudyChoice",
    "StudyError",
    "Variant",
    "as_study",
    "load_study",
    "parse_study",
    "study_names",
]

STUDIES = Path(__file__).parents[1] / "studies"

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

    @field_validator("hosts")
    @classmethod
    def _hosts_differ(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if hosts.count(host) > 1:
                raise ValueError(f"{host!r} stands twice; allowed: once")
        return hosts

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

    @cached_property
    def targets(self) -> tuple[Local | Pool | Slurm, ...]:
        """The hosts as their files describe them, which are read once.

        Raises:
            StudyError: there is no such host, its file is invalid, or two of them are the same.
        """
        return tuple(load_hosts(self.hosts))

    def with_options(
        self,
        variants: Sequence[str] | None = None,
        rounds: int | None = None,
        samples: int | None = None,
        hosts: Sequence[str] | None = None,
    ) -> Study:
        """The study with only these variants and its baseline, other numbers, other hosts; null leaves what it says.

        Raises:
            StudyError: it then cannot run: a name is unknown, a number out of bounds, a host is not a valid host.
        """
        study = self if variants is None else self.only(variants)
        if (rounds, samples, hosts) != (None, None, None):
            content = study.model_dump()
            content["measuring"]["rounds"] = study.measuring.rounds if rounds is None else rounds
            content["data"]["samples"] = study.data.samples if samples is None else samples
            content["hosts"] = study.hosts if hosts is None else list(hosts)
            study = parse_study(content)
        assert study.targets  # a host that is not valid is refused now
        return study


def study_names() -> list[str]:
    """The studies that ship with slimline."""
    return names_in(STUDIES)


# A choice in a form; the path of a file is another choice wherever names are typed.
StudyChoice = Annotated[str, WithJsonSchema({"type": "string", "enum": study_names(), "title": "by name"})]


def as_study(study: str | Study) -> Study:
    """A study as it is, or by name or path.

    Raises:
        StudyError: as `load_study`.
    """
    return load_study(study) if isinstance(study, str) else study


def load_study(name: str) -> Study:
    """A study by name, or from a YAML file.

    Raises:
        StudyError: there is no such study, or it is invalid; the message names every offending field.
    """
    path = find_file("study", name, STUDIES)
    return parse_study({"name": path.stem, **read_fields(path, "a study")})


def parse_study(content: Mapping[str, Any]) -> Study:
    """A study from plain data, or a `StudyError` that lists every problem."""
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError("\n".join(problems_of(error))) from error
