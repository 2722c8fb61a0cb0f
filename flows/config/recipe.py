"""Recipes as fields of a study: any step of the registry, or of a user's own module, and which can follow which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from slimline.tasks.forms import Form
from slimline.tasks.registry import RECIPE_ROWS, row_of, user_row
from slimline.tasks.specs import Engine, External, StepSpec, UserStep

USER_MODULES = {"import user modules": True}
"""Validation context in which the fields of a user's own steps are checked by their own specs.

Without it, no module is imported: to read a study from the store or from an order runs no code that it names.
"""


class _AnyStep:
    """Annotation of a field that holds a step: one that ships, told by its `step`, or a user's own."""

    def __init__(self, *specs: type[StepSpec]) -> None:
        self._specs = specs

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shipped = {spec.model_fields["step"].default: handler.generate_schema(spec) for spec in self._specs}
        return core_schema.with_info_wrap_validator_function(
            _check_step,
            core_schema.tagged_union_schema(shipped, discriminator="step"),
            serialization=core_schema.simple_ser_schema("any"),  # with the fields that it has, not those of StepSpec
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        described["oneOf"].append(UserStep.model_json_schema())
        return described


def _check_step(value: Any, check_shipped: ValidatorFunctionWrapHandler, info: ValidationInfo) -> StepSpec:
    name = value.get("step") if isinstance(value, dict) else getattr(value, "step", None)
    if not (isinstance(name, str) and ":" in name):
        step: StepSpec = check_shipped(value)
        return step
    given = UserStep.model_validate(value)
    if info.context is not USER_MODULES:
        return given
    checked = user_row(name).spec.model_validate(given.model_dump())
    return UserStep.model_validate(checked.model_dump(mode="json"))


Preparation = Annotated[StepSpec, _AnyStep(*(row.spec for row in RECIPE_ROWS))]
"""A step that makes a model of a model."""
Step = Annotated[StepSpec, _AnyStep(*(row.spec for row in RECIPE_ROWS), Engine)]
"""A step of a recipe: one that makes a model, or the engine at its end."""


def can_check(steps: Sequence[StepSpec], info: ValidationInfo) -> bool:
    """Whether a validation may know what form the steps take and make.

    A user's own say it in the user's module; what others made says it by files, of the machine that builds.
    """
    return info.context is USER_MODULES or not any(isinstance(step, UserStep | External) for step in steps)


def form_after(steps: Sequence[StepSpec], field: str) -> Form:
    """What a checkpoint has become after these steps of a study's field.

    Raises:
        ValueError: a step cannot follow the one before it.
    """
    form: Form = "checkpoint"
    for number, step in enumerate(steps):
        if isinstance(step, Engine):
            raise ValueError(f"{field}.{number}: engine {step.name} is not at the end; it must be the last step")
        row = row_of(step)
        if row.opens:
            form = _form_opened(step, row.opens, f"{field}.{number}")
            if number:
                raise ValueError(f"{field}.{number}: {step.step} takes no model; it must be the first step")
            continue
        takes = row.takes
        if form not in takes:
            if _is_quantized(form) and any(map(_is_quantized, takes.values())):
                raise ValueError(f"{field}.{number}: {step.step} quantizes what is quantized already; allowed: once")
            raise ValueError(f"{field}.{number}: {step.step} takes a {' or '.join(takes)}, but it would get a {form}")
        form = takes[form]
    return form


def _form_opened(step: StepSpec, opens: Callable[[Any], Form], field: str) -> Form:
    try:
        return opens(step)
    except ValueError as error:
        raise ValueError(f"{field}.{error}") from None


def _is_quantized(form: Form) -> bool:
    return form.startswith(("quantized", "packed"))
