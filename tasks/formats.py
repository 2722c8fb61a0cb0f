"""The formats of models that others made, told by the names of a directory's files."""

from __future__ import annotations

from slimline.tasks.specs import External, ForeignFormat

_FILES: dict[ForeignFormat, tuple[str, ...]] = {
    "huggingface": ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin"),
    "onnx": ("*.onnx", "onnx/*.onnx", "genai_config.json"),
    "openvino": ("*.xml",),
    "ctranslate2": ("model.bin",),
}


def format_of(spec: External) -> ForeignFormat:
    """The format of the model in a step's directory: the one that the step names, else the only one that it can be.

    Raises:
        ValueError: there is no such directory or file, or there are files of several formats, and none is named.
    """
    directory = spec.directory
    if not directory.is_dir():
        raise ValueError(f"directory: {directory} is not a directory")
    found = [name for name, patterns in _FILES.items() if any(any(directory.glob(each)) for each in patterns)]
    if spec.format is not None and spec.format not in found:
        raise ValueError(f"format: {directory} has no file of {spec.format}: {', '.join(_FILES[spec.format])}")
    if spec.format is None and not found:
        names = ", ".join(each for patterns in _FILES.values() for each in patterns)
        raise ValueError(f"directory: {directory} has no model; allowed: one with {names}")
    if spec.format is None and len(found) > 1:
        raise ValueError(f"format: {directory} has files of {', '.join(found)}; say which one is meant")
    return spec.format or found[0]
