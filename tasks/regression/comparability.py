"""Which earlier runs a variant may be compared with, and what has changed in the software since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from slimline.storage.metrics.rows import Suspect
from slimline.storage.queries.history import HostRun, PairedRound

_MEASURED_ALIKE = ("speed_samples", "turn_seconds", "warmup_samples", "threads", "decoding")


class Prompts(NamedTuple):
    """How many samples were timed, and how many tokens they had; null where it is not known."""

    samples: int | None
    tokens: int | None


def differences(now: HostRun, then: HostRun, variant: str) -> list[str]:
    """The fields of the study that make a variant's figures of two runs incomparable: its recipe, how it is measured.

    What one of them does not say (an older slimline had fewer fields) is no difference; nor is the number of rounds.
    """
    return list(_different_fields(_setup(now, variant), _setup(then, variant), ""))


def _setup(run: HostRun, variant: str) -> dict[str, object]:
    return {
        "base": _at(run.spec, "base"),
        "prepare": _at(run.spec, "prepare"),
        "baseline": run.baseline,
        "variants": {name: _at(run.spec, "variants", name, "recipe") for name in (variant, run.baseline)},
        "measuring": {name: _at(run.spec, "measuring", name) for name in _MEASURED_ALIKE},
    }


def _at(document: object, *path: str | None) -> object:
    """What a JSON document has at a path; null where it has nothing."""
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _different_fields(now: object, then: object, path: str) -> Iterator[str]:
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        for name in now.keys() & then.keys():
            yield from _different_fields(now[name], then[name], f"{path}.{name}".lstrip("."))
    elif isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        for number, (ours, theirs) in enumerate(zip(now, then, strict=True)):
            yield from _different_fields(ours, theirs, f"{path}.{number}")
    elif now is not None and then is not None and now != then:
        yield path


def timed_prompts(rounds: Sequence[PairedRound]) -> Prompts:
    """What the rounds say of the prompts they were timed on: the same for the same prompts."""
    samples = (row.samples for row in rounds if row.samples is not None)
    tokens = (row.prompt_tokens for row in rounds if row.prompt_tokens is not None)
    return Prompts(next(samples, None), next(tokens, None))


def other_prompts(now: Prompts, then: Prompts) -> bool:
    """Whether two runs were timed on different prompts, as far as both tell."""
    return any(ours != theirs for ours, theirs in zip(now, then, strict=True) if None not in (ours, theirs))


def suspects(good: HostRun, bad: HostRun) -> tuple[Suspect, ...]:
    """Libraries whose version differs between the last good run and one after the change, and slimline's commit."""
    before, after = ({**each.versions, "git_commit": each.git_commit} for each in (good, bad))
    return tuple(
        Suspect(library=name, before=before.get(name), after=after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )
