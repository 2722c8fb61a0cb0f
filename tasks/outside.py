"""What a step depends on outside the store and outside its code: files, the host that it runs on, an environment."""

from __future__ import annotations

import os
from hashlib import file_digest, sha256
from importlib import import_module
from pathlib import Path

from slimline.storage.paths import BUNDLED
from slimline.tasks.formats import format_of
from slimline.tasks.forms import FORM_OF, Form
from slimline.tasks.runtime.host import describe_host, usable_threads, usable_weight_bits
from slimline.tasks.specs import (
    Data,
    ExportCtranslate2,
    External,
    MpPtq,
    OnnxInt8,
    OnnxLowBit,
    OnnxStaticInt8,
    OpenvinoInt8,
    PegPtq,
    Slim,
    Spec,
)


def source_files(spec: Data) -> str:
    """Digest of the files of a data source."""
    from slimline.tasks.data.sources import source_digest  # multiprocessing and more, which no recipe step needs

    return source_digest(spec.origin)


def bundled_files(spec: Spec) -> str:
    """Digest of the models that ship with slimline."""
    return directory_digest(BUNDLED)


def local_files(directory: Path) -> str:
    """Of a base; the `id` of a hub's model may be a directory as well."""
    return directory_digest(directory.expanduser())


def form_of(spec: External) -> Form:
    """The form of the model in a step's directory."""
    return FORM_OF[format_of(spec)]


def timing_host(spec: Slim) -> str:
    """For `speedup`, the host whose latency table decides."""
    return f"{describe_host().fingerprint} {usable_threads()}" if spec.speedup is not None else ""


def int8_of_host(spec: Spec) -> str:
    """How many bits of a weight this host can use in int8: more saturate, so neither models nor scores are the same."""
    return str(usable_weight_bits())


Int8Step = OnnxInt8 | OnnxLowBit | OnnxStaticInt8 | MpPtq | PegPtq | OpenvinoInt8 | ExportCtranslate2


def weight_bits(spec: Int8Step) -> str:
    """How many bits of a weight an int8 step uses on this host."""
    is_int8 = not isinstance(spec, ExportCtranslate2) or spec.precision == "int8"
    return str(spec.weight_bits or usable_weight_bits()) if is_int8 else ""


def itrex_environment(spec: Spec) -> str:
    """The environment that ITREX runs in, whose versions are not those of slimline's libraries."""
    return str(import_module("slimline.tasks.itrex.environment").environment_digest())


def directory_digest(directory: Path) -> str:
    """SHA-256 over the names and contents of a directory's files; of a missing one, that of nothing."""
    digest = sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        # A name need not be UTF-8; it is of the file system's bytes.
        with path.open("rb") as file:
            digest.update(os.fsencode(path.relative_to(directory)) + b"\0" + file_digest(file, "sha256").digest())
    return digest.hexdigest()
