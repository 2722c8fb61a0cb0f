"""A study: base model, data, variants, hosts and rounds; read from YAML, checked before anything is computed."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, ValidationInfo, WithJsonSchema, field_validator, model_validator

from slimline.flows.config.host import Local, Pool, Slurm, load_hosts
from slimline.flows.config.loader import StudyError, find_file, problem_lines, read_fields, unknown_name, yaml_names
from slimline.flows.config.recipe import USER_MODULES, Preparation, Step, can_check, form_after
from slimline.tasks.forms import ENGINE_OF, KIND_OF
from slimline.tasks.measurement.settings import MeasurementSettings
from slimline.tasks.registry import forms_run_by
from slimline.tasks.specs import (
    Base,
    BundledBase,
    Data,
    Engine,
    EngineName,
    External,
    PythonTrees,
    Spec,
    StepSpec,
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

NAME = r"^[a-z0-9][a-z0-9-]*$"
STUDIES = Path(__file__).parents[1] / "studies"


class Variant(Spec):
    """A recipe with a label that says what it claims to be."""

    label: Literal["baseline", "control", "as published", "repaired", "ours", "external"] = "ours"
    recipe: tuple[Step, ...]
    repairs: tuple[str, ...] = Field((), description="Variants, as published, whose idea this one does right.")

    @model_validator(mode="before")
    @classmethod
    def _what_others_made_is_not_ours(cls, content: Any) -> Any:
        recipe = content.get("recipe") if isinstance(content, dict) else None
        first = recipe[0] if isinstance(recipe, list | tuple) and recipe else None
        name = first.get("step") if isinstance(first, dict) else getattr(first, "step", None)
        return {"label": "external", **content} if name == "external" else content

    @model_validator(mode="after")
    def _recipe_fits_together(self, info: ValidationInfo) -> Self:
        if not self.recipe or not isinstance(self.recipe[-1], Engine):
            end = f"ends with {self.recipe[-1].step}" if self.recipe else "is empty"
            raise ValueError(f"recipe: {end}; the last step must be an engine ({', '.join(get_args(EngineName))})")
        if self.engine.draft_tokens and isinstance(self.recipe[0], External):
            raise ValueError(f"recipe.{len(self.steps)}.draft_tokens: not for an external model; allowed: 0")
        if can_check(self.recipe, info):
            form = form_after(self.recipe[:-1], "recipe")
            if form not in (runs := forms_run_by(self.engine.name)):
                raise ValueError(
                    f"recipe.{len(self.steps)}: engine {self.engine.name} runs a {' or '.join(runs)}, not a {form}; "
                    f"allowed: {ENGINE_OF[KIND_OF[form]]}"
                )
        return self

    @property
    def steps(self) -> tuple[StepSpec, ...]:
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

    name: str = Field(pattern=NAME)
    description: str = ""
    base: Base = BundledBase()
    prepare: tuple[Preparation, ...] = Field((), description="Steps every variant starts with, such as fine-tuning.")
    data: Data = Data()
    variants: dict[str, Variant] = Field(min_length=1)
    baseline: str = Field("original", validate_default=True)
    control: str | None = Field(
        None,
        description="Variant that was trained as long as the others: against it the drops of EM and ES are measured of "
        "all that were trained on after the base. Null: against the baseline, as those of others.",
    )
    hosts: tuple[str, ...] = Field(("local",), min_length=1, max_length=1000)
    measuring: MeasurementSettings = MeasurementSettings()
    seed: int = 0

    @field_validator("variants")
    @classmethod
    def _names_are_plain(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        for name in variants:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{name!r} is not a valid name; allowed: letters, digits, '-' and '_'")
        return variants

    @field_validator("variants")
    @classmethod
    def _repaired_are_variants(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        for name, variant in variants.items():
            for repaired in variant.repairs:
                if repaired == name or repaired not in variants:
                    others = variants.keys() - {name}
                    raise ValueError(f"{name}.repairs: {unknown_name(repaired, sorted(others))}")
        return variants

    @field_validator("baseline", "control")
    @classmethod
    def _is_a_variant(cls, name: str | None, others: ValidationInfo) -> str | None:
        variants = others.data.get("variants", {name: None})  # absent where they are refused themselves
        if name is not None and name not in variants:
            raise ValueError(unknown_name(name, variants))
        return name

    @field_validator("hosts")
    @classmethod
    def _hosts_differ(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host, count in Counter(hosts).items():
            if count > 1:
                raise ValueError(f"{host!r} is given {count} times; allowed: once")
        return hosts

    @field_validator("prepare")
    @classmethod
    def _prepares_a_checkpoint(cls, prepare: tuple[Preparation, ...], info: ValidationInfo) -> tuple[Preparation, ...]:
        if can_check(prepare, info) and (form := form_after(prepare, "prepare")) != "checkpoint":
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
        """The study with these variants, its baseline and its control.

        Raises:
            StudyError: a name is not a variant of it.
        """
        for name in names:
            if name not in self.variants:
                raise StudyError(f"variants: {unknown_name(name, self.variants)}")
        always = (self.baseline, self.control)
        left = {name for name in self.variants if name in {*names, *always}}
        kept = {
            name: variant.model_copy(update={"repairs": tuple(each for each in variant.repairs if each in left)})
            for name, variant in self.variants.items()
            if name in left
        }
        return self.model_copy(update={"variants": kept})

    @property
    def cautions(self) -> list[str]:
        """What makes its results mean less than they seem to, though it can run; a sentence each."""
        origin = self.data.origin
        uses_bundled = isinstance(self.base, BundledBase)
        if not (uses_bundled and isinstance(origin, PythonTrees) and origin.roots):
            return []
        return [
            "data.origin.roots: the bundled model may have been trained on some of these files. Packages are held out "
            "by the names that they have in site-packages and the standard library; below other directories they may "
            "have others. Where that is so, EM and ES are too high."
        ]

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
        """The study with only these variants, its baseline and control, other numbers, other hosts; null: as it is.

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
        _ = study.targets  # reads the hosts: one that is not valid is refused now
        return study


def study_names() -> list[str]:
    """The studies that ship with slimline."""
    return yaml_names(STUDIES)


# A choice in a form; the path of a file is another choice wherever names are typed.
StudyChoice = Annotated[str, WithJsonSchema({"type": "string", "enum": study_names(), "title": "by name"})]


def as_study(study: str | Study) -> Study:
    """A study as it is, or by name or path.

    Raises:
        StudyError: as `load_study`.
    """
    return load_study(study) if isinstance(study, str) else study


def load_study(name: str) -> Study:
    """A study by name, or from a YAML file; a module of the user's own steps may be beside the file.

    Raises:
        StudyError: there is no such study, or it is invalid; the message names every offending field.
    """
    path = find_file("study", name, STUDIES)
    if path.parent != STUDIES and (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # at its end: a module of the user's replaces no other one
    fields = read_fields(path, "a study")
    if "name" not in fields and not re.fullmatch(NAME, path.stem):
        raise StudyError(
            f"{path}: name is taken from the file, but {path.stem!r} does not match {NAME}; add `name: ...`"
        )
    return parse_study({"name": path.stem, **fields})


def parse_study(content: Mapping[str, Any]) -> Study:
    """A study that can be built, from plain data; imports the modules of a user's own steps.

    Raises:
        StudyError: it cannot; the message lists every problem.
    """
    try:
        return Study.model_validate(content, context=USER_MODULES)
    except ValidationError as error:
        raise StudyError("\n".join(problem_lines(error))) from error
