"""Libraries that slimline works without: which extra installs each, for an error that says what to do."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

# A requirement of the package's metadata, as in: openvino<2027,>=2026.4; extra == "openvino"
_REQUIREMENT = re.compile(r"""(?P<library>[\w.-]+).*;.*extra == ["'](?P<extra>[\w-]+)["']""")


class MissingExtraError(ImportError):
    """A library of an extra is not installed; the message has the command that installs it."""


def import_module(name: str) -> ModuleType:
    """Import one of our modules that needs a library of an extra.

    Raises:
        MissingExtraError: the library is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if message := missing_extra(error):
            raise MissingExtraError(message) from error
        raise


def missing_extra(error: BaseException) -> str | None:
    """The command that installs the library whose import failed, in a sentence; None for any other error.

    fsspec raises an error of its own when s3fs is missing, so causes are searched as well.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and (library := (cause.name or "").partition(".")[0]):
            extra = _extras().get(library)
            return extra and f"{library} is not installed; pip install 'slimline[{extra}]' installs it"
        cause = cause.__cause__
    return None


def _extras() -> dict[str, str]:
    """The extra of each optional library, by the name that is imported."""
    from importlib.metadata import PackageNotFoundError, requires  # slow, and needed only after an error

    try:
        found = [_REQUIREMENT.match(each) for each in requires("slimline") or ()]
    except PackageNotFoundError:  # slimline runs from a copy of its source
        return {}
    return {each["library"].lower().replace("-", "_"): each["extra"] for each in reversed(found) if each}
