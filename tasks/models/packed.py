"""A GPT-2 with packed matrices: integers with a scale per group in memory, and computation in floating point.

`packed.safetensors` has for every matrix [rows, columns], by transformers' name of its module,

- `<name>.scales`: fp16 [rows, groups]; the columns of a row are split into groups of equal width, the last group padded
  with zeros;
- `<name>.weight`: the integers, int8 [rows, groups * width], or uint8 [rows, groups * width / 2] with two integers in a
  byte: byte j has column j in its low and column j + half in its high four bits, each plus 8;
- or, in place of that, `<name>.signs` or `<name>.trits`: weights of two or three values, see `low_bit`, in one group;

and everything else (norms, biases) in fp16 by transformers' names. A matrix is integers * scales; its rows are the
outputs of a projection. Embeddings are int8 with one group per row; a tied head is the embedding and not stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from slimline.tasks.models import low_bit
from slimline.tasks.models.checkpoint import CheckpointError, read_gpt2_config
from slimline.tasks.models.loading import load_gpt2

PACKED_FILE = "packed.safetensors"
# Weights unpacked at once: 1 MB in fp32, which is still in a core's cache for the matrix product.
_BLOCK = 1 << 18


class PackedMatrix(NamedTuple):
    """Integers and scales of one matrix, as in the file, and how many integers a byte has."""

    weight: torch.Tensor
    scales: torch.Tensor
    per_byte: int

    def fits(self, rows: int, columns: int) -> bool:
        """Whether the shapes are those of a matrix [rows, columns]."""
        if self.weight.shape[:-1] != (rows,) or self.scales.shape[:-1] != (rows,):
            return False
        groups = self.scales.shape[1]
        if self.per_byte in _LOW_BITS:
            return bool(groups == 1 and self.weight.shape[1] == -(-columns // self.per_byte))
        width = self.weight.shape[1] * self.per_byte // max(1, groups)
        return bool((groups - 1) * width < columns <= groups * width)

    def unpack(self, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """The matrix [rows, columns] in floating point."""
        integers = self._integers(columns)
        groups = self.scales.shape[1]
        width = integers.shape[1] // groups
        grouped = integers[:, : groups * width].unflatten(1, (groups, width))
        return torch.mul(grouped, self.scales.to(dtype)[..., None]).flatten(1)[:, :columns]

    def take(self, rows: slice | torch.Tensor) -> PackedMatrix:
        """The matrix of these rows."""
        return self._replace(weight=self.weight[rows], scales=self.scales[rows])

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The parts by their names in the file, for the matrix `name`."""
        return {f"{name}.{_SUFFIX[self.per_byte]}": self.weight, f"{name}.scales": self.scales}

    def _integers(self, columns: int) -> torch.Tensor:
        if self.per_byte in _LOW_BITS:
            return torch.from_numpy(low_bit.unpack(self.weight.numpy(), _LOW_BITS[self.per_byte], columns))
        return self.weight if self.per_byte == 1 else _from_nibbles(self.weight)


_LOW_BITS = {count: bits for bits, count in low_bit.PER_BYTE.items()}
_SUFFIX = {1: "weight", 2: "weight", low_bit.PER_BYTE[1]: "signs", low_bit.PER_BYTE[2]: "trits"}


def pack(integers: torch.Tensor, scales: torch.Tensor, bits: int, width: int) -> PackedMatrix:
    """The packed form of integers with their scales.

    Args:
        integers: [rows, columns], -8 to 7 in 4 bits, -128 to 127 in 8.
        scales: [rows, groups], each for `width` columns, or fewer in the last group.
        bits: 4 or 8.
        width: Columns of a group.
    """
    rows, columns = integers.shape
    padded = torch.zeros(rows, scales.shape[1] * min(width, columns), dtype=torch.int8)
    padded[:, :columns] = integers
    return PackedMatrix(padded if bits == 8 else _to_nibbles(padded), scales.to(torch.float16), 8 // bits)


def round_rows(table: torch.Tensor) -> PackedMatrix:
    """A table of embeddings [rows, columns] in int8; the largest entry of each row is ±127."""
    scales = (table.abs().amax(dim=1, keepdim=True) / 127).to(torch.float16)
    steps = torch.where(scales == 0, 1, scales).float()
    return pack((table / steps).round().clamp(-127, 127), scales, bits=8, width=table.shape[1])


def pack_low_bit(matrix: torch.Tensor) -> PackedMatrix | None:
    """A matrix [rows, columns] of two or three values a row, packed; None if it has others."""
    found = low_bit.as_low_bit(matrix.numpy(), axis=1)
    if found is None:
        return None
    packed = torch.from_numpy(low_bit.pack(found.integers, found.bits))
    return PackedMatrix(packed, torch.from_numpy(found.scales).to(torch.float16), low_bit.PER_BYTE[found.bits])


def save_low_bit(model: GPT2LMHeadModel, source: Path, target: Path) -> bool:
    """Write a model whose projections all have two or three values an output, packed; tables of more are in int8.

    Args:
        model: In fp32, as `xtc` left it.
        source: With its `config.json` and `tokenizer.json`.
        target: Where it is written.

    Returns:
        False if a projection has more values: then nothing is written.
    """
    tensors = {name: value.detach().half() for name, value in model.named_parameters() if value.ndim == 1}
    for name, module in model.named_modules():
        if isinstance(module, Conv1D | torch.nn.Embedding | torch.nn.Linear):
            is_projection = isinstance(module, Conv1D)
            matrix = module.weight.detach().T if is_projection else module.weight.detach()
            packed = pack_low_bit(matrix)
            if packed is None and is_projection:
                return False
            if name != "lm_head" or not model.config.tie_word_embeddings:
                tensors |= (packed or round_rows(matrix)).tensors(name)
    target.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, target / PACKED_FILE, metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(source / name, target / name)
    return True


def is_packed(directory: Path) -> bool:
    """Whether the artifact has weights packed by `weight-only`."""
    return (directory / PACKED_FILE).is_file()


def load_packed(directory: Path, dtype: torch.dtype) -> GPT2LMHeadModel:
    """The model that `weight-only` wrote, in evaluation mode, computing in `dtype`.

    Raises:
        CheckpointError: the file is damaged, or its tensors are not those of the configuration.
    """
    tied = read_gpt2_config(directory)["tie_word_embeddings"]
    file = _PackedFile(directory / PACKED_FILE)
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(directory, local_files_only=True))
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            columns, rows = module.weight.shape
            model.set_submodule(name, PackedLinear(file.matrix(name, rows, columns), columns, module.bias))
        elif isinstance(module, torch.nn.Embedding):
            rows, columns = module.weight.shape
            model.set_submodule(name, PackedEmbedding(file.matrix(name, rows, columns), columns, dtype))
        elif isinstance(module, torch.nn.Linear):
            rows, columns = module.weight.shape
            table = file.matrix("transformer.wte" if tied else name, rows, columns)
            model.set_submodule(name, PackedLinear(table, columns, None))
    file.fill(model, dtype)
    return model.eval()


def load_dense(directory: Path) -> GPT2LMHeadModel:
    """A model in fp32; if `weight-only` wrote it, its matrices are what the integers stand for.

    Raises:
        CheckpointError: as `load_packed` and `load_gpt2`.
    """
    if not is_packed(directory):
        return load_gpt2(directory)
    packed = load_packed(directory, torch.float32)
    model = GPT2LMHeadModel(packed.config)
    weights = packed.state_dict()
    for name, module in packed.named_modules():
        if isinstance(module, PackedLinear | PackedEmbedding):
            original = model.get_submodule(name)
            matrix = module.unpacked()
            weights[f"{name}.weight"] = matrix.T if isinstance(original, Conv1D) else matrix
    model.load_state_dict(weights)
    return model.eval()


class _PackedFile:
    """The tensors of a `packed.safetensors`, each checked when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tensors = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: truncated or damaged ({error})") from error

    def matrix(self, name: str, rows: int, columns: int) -> PackedMatrix:
        """The matrix `name`, whose shape must be [rows, columns]."""
        weight = next((each for suffix in _SUFFIX.values() if (each := f"{name}.{suffix}") in self._tensors), None)
        if missing := [each for each in (weight or f"{name}.weight", f"{name}.scales") if each not in self._tensors]:
            raise CheckpointError(f"{self._path}: tensors are missing: {', '.join(missing)}")
        found = _as_matrix(str(weight).rpartition(".")[2], self._tensors[str(weight)], self._tensors[f"{name}.scales"])
        if not found.fits(rows, columns):
            shapes = f"{found.weight.dtype} {list(found.weight.shape)} with scales {list(found.scales.shape)}"
            raise CheckpointError(f"{self._path}: {name} is {shapes}; allowed: a packed matrix [{rows}, {columns}]")
        return found

    def fill(self, model: GPT2LMHeadModel, dtype: torch.dtype) -> None:
        """Load everything that is not packed into the model."""
        floats = {name: value.to(dtype) for name, value in self._tensors.items() if value.dtype == torch.float16}
        floats = {name: value for name, value in floats.items() if not name.endswith(".scales")}
        missing = model.load_state_dict(floats, strict=False, assign=True).missing_keys
        if missing:
            raise CheckpointError(f"{self._path}: tensors are missing: {', '.join(sorted(missing))}")


def _as_matrix(suffix: str, weight: torch.Tensor, scales: torch.Tensor) -> PackedMatrix:
    by_type = {torch.int8: 1, torch.uint8: 2}.get(weight.dtype, 0)
    low = {name: count for count, name in _SUFFIX.items() if name != "weight"}
    return PackedMatrix(weight, scales, low.get(suffix, by_type))


class PackedLinear(torch.nn.Module):  # type: ignore[misc]
    """A projection by a packed matrix, which is unpacked in blocks of a megabyte.

    torch's own kernels for packed weights are not used: on the CPU they are fast only for bfloat16 and few rows, and 10
    to 80 times slower than this in fp32 (torch 2.13: _weight_int8pack_mm, _weight_int4pack_mm_for_cpu).
    """

    def __init__(self, matrix: PackedMatrix, columns: int, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.matrix = matrix
        self._columns = columns
        self.bias = bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply inputs [..., columns] by the matrix; returns [..., rows]."""
        products = [linear(inputs, block.unpack(self._columns, inputs.dtype)) for block in self._blocks()]
        outputs = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
        return outputs if self.bias is None else outputs.add_(self.bias)

    def unpacked(self) -> torch.Tensor:
        """The matrix [rows, columns] in fp32."""
        return self.matrix.unpack(self._columns, torch.float32)

    def _blocks(self) -> Iterator[PackedMatrix]:
        rows = max(1, _BLOCK // self._columns)
        for begin in range(0, len(self.matrix.weight), rows):
            yield self.matrix.take(slice(begin, begin + rows))


class PackedEmbedding(torch.nn.Module):  # type: ignore[misc]
    """An embedding with a packed table."""

    def __init__(self, matrix: PackedMatrix, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.matrix = matrix
        self._columns = columns
        self._dtype = dtype

    def unpacked(self) -> torch.Tensor:
        """The table [rows, columns] in fp32."""
        return self.matrix.unpack(self._columns, torch.float32)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up ids [...]; returns [..., columns]."""
        rows = self.matrix.take(ids.flatten()).unpack(self._columns, self._dtype)
        return rows.view(*ids.shape, self._columns)


def _to_nibbles(integers: torch.Tensor) -> torch.Tensor:
    half = -(-integers.shape[1] // 2)
    raised = torch.full((len(integers), 2 * half), 8, dtype=torch.uint8)
    raised[:, : integers.shape[1]] = integers + 8
    return raised[:, :half] | raised[:, half:] << 4


def _from_nibbles(packed: torch.Tensor) -> torch.Tensor:
    rows, half = packed.shape
    raised = torch.empty(rows, 2 * half, dtype=torch.uint8)
    torch.bitwise_and(packed, 15, out=raised[:, :half])
    torch.bitwise_right_shift(packed, 4, out=raised[:, half:])
    return raised.view(torch.int8).sub_(8)
