"""Which earlier runs a variant may be compared with, and what has changed in the software since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimline.storage.queries.history import Conducted, Row

_MEASURED_ALIKE = ("speed_samples", "turn_seconds", "warmup_samples", "threads", "decoding")
_PROMPTS = ("samples", "prompt_tokens")


def differences(now: Conducted, then: Conducted, variant: str) -> list[str]:
    """The fields of the study that make a variant's figures of two runs incomparable: its recipe, how it is measured.

    What one of them does not say (an older slimline had fewer fields) is no difference; nor is the number of rounds.
    """
    return list(_differing(_setup(now, variant), _setup(then, variant), ""))


def _setup(conducted: Conducted, variant: str) -> dict[str, Any]:
    spec = conducted.spec
    recipes = {name: spec.get("variants", {}).get(name, {}).get("recipe") for name in (variant, conducted.baseline)}
    measuring = {name: spec.get("measuring", {}).get(name) for name in _MEASURED_ALIKE}
    kept = {"base": spec.get("base"), "prepare": spec.get("prepare")}
    return {**kept, "baseline": conducted.baseline, "variants": recipes, "measuring": measuring}


def _differing(now: object, then: object, path: str) -> Iterator[str]:
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        for name in now.keys() & then.keys():
            yield from _differing(now[name], then[name], f"{path}.{name}".lstrip("."))
    elif isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        for number, (ours, theirs) in enumerate(zip(now, then, strict=True)):
            yield from _differing(ours, theirs, f"{path}.{number}")
    elif now is not None and then is not None and now != then:
        yield path


def prompts_of(rounds: list[Row]) -> tuple[int | None, ...]:
    """How many samples were timed, and how many tokens they had: the same for the same prompts."""
    return tuple(next((row[name] for row in rounds if row[name] is not None), None) for name in _PROMPTS)


def other_prompts(now: tuple[int | None, ...], then: tuple[int | None, ...]) -> bool:
    """Whether two runs were timed on different prompts, as far as both tell."""
    return any(ours != theirs for ours, theirs in zip(now, then, strict=True) if None not in (ours, theirs))


def suspects(good: Conducted, bad: Conducted) -> list[dict[str, str | None]]:
    """Libraries whose version differs between the last good run and one after the change, and slimline's commit."""
    before, after = ({**each.versions, "git_commit": each.git_commit} for each in (good, bad))
    return [
        {"library": name, "before": before.get(name), "after": after.get(name)}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
