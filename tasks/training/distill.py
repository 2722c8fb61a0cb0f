"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) from a larger GPT-2, also with a smaller vocabulary.

Hidden states are matched after the last layer (DistilBERT, arXiv:1910.01108), or after each of the student's with those
of the teacher's layer at the same share of the depth, as MiniLM (arXiv:2002.10957) and XTC (arXiv:2206.01859) map them.

If the student's byte-pair vocabulary is a trimmed form of the teacher's, each of the teacher's tokens is a fixed
sequence of the student's. At the end of such a sequence both have read the same text. There the teacher's probability
of a student token is the sum over all of its own tokens that begin with it, which is exact. Within a sequence the loss
has only the cross-entropy with the text.

In a student with packed integers, their scales, norms and biases are trained (tasks/training/packed_weights.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from slimline.tasks.data.packing import Windows, pack
from slimline.tasks.data.parquet import read_codes
from slimline.tasks.data.tokenizer import load_tokenizer
from slimline.tasks.models.loading import load_gpt2, save_gpt2
from slimline.tasks.models.packed import is_packed
from slimline.tasks.specs import Distill, Distillation
from slimline.tasks.training.packed_weights import load_trainable, save_trained
from slimline.tasks.training.pretrain import shuffle
from slimline.tasks.training.training_loop import (
    choose_attention,
    dev_text,
    mixed_precision,
    train_for,
    training_device,
)

Ids = NDArray[np.int64]

_IGNORED = -100  # label that cross-entropy ignores


class TokenMap:
    """Each of the teacher's tokens as a sequence of the student's tokens.

    Attributes:
        flat: The sequences, one after the other.
        lengths: Of each sequence, [teacher's vocabulary].
        starts: Of each sequence in `flat`, [teacher's vocabulary].
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        """Join the sequences, in order of the teacher's tokens."""
        self.flat: Ids = np.array([piece for pieces in sequences for piece in pieces])
        self.lengths: Ids = np.array([len(pieces) for pieces in sequences])
        self.starts: Ids = self.lengths.cumsum() - self.lengths

    @property
    def first(self) -> Tensor:
        """The first student token of each of the teacher's tokens, [teacher's vocabulary]."""
        return torch.from_numpy(self.flat[self.starts])


class AlignedBatch(NamedTuple):
    """A batch for student and teacher.

    Attributes:
        ids: The student's token ids, [rows, window].
        labels: The student's labels, [rows, window].
        student_at: Flat positions in the student's windows where both have read the same text.
        teacher_at: The same positions in the teacher's windows.
    """

    ids: Tensor
    labels: Tensor
    student_at: Tensor
    teacher_at: Tensor


def distill(
    spec: Distill, model_dir: Path, teacher_dir: Path, slice_dir: Path, target: Path, work_dir: Path
) -> dict[str, Any]:
    """Train the model of `model_dir` to predict the text as the teacher does, and write it to `target`.

    Returns:
        Notes for provenance: those of `teach`.

    Raises:
        ValueError: as `teach`.
    """
    packed = is_packed(model_dir)
    student = load_trainable(model_dir) if packed else load_gpt2(model_dir)
    notes = teach(spec, student, Lesson(model_dir, teacher_dir, slice_dir, work_dir))
    (save_trained if packed else save_gpt2)(student, model_dir, target)
    return notes


class Lesson(NamedTuple):
    """The directories of a distillation.

    Attributes:
        student: Of the student's tokenizer.
        teacher: The teacher's checkpoint.
        data: The slice.
        work: For what lets the training resume after a kill.
    """

    student: Path
    teacher: Path
    data: Path
    work: Path


def teach(spec: Distillation, student: GPT2LMHeadModel, lesson: Lesson) -> dict[str, Any]:
    """Train a student, in place, to predict the text as its teacher does.

    The loss of a batch is (1 - share) * cross-entropy with the text + share * T^2 * KL(teacher || student) with
    temperature T, plus `hidden_weight` times the mean squared error of hidden states, relative to the mean square of
    the teacher's; a student of another width has a learnt projection for each.

    Returns:
        Notes for provenance: trained_parameters, corpus_tokens (the teacher's), dev_loss (nats per student token) and
        dev_bits_per_byte, both also with _before, and the training's progress.

    Raises:
        ValueError: the student's vocabulary is not a trimmed form of the teacher's, it has more layers to be matched
            than the teacher has, or a window is too long.
    """
    torch.manual_seed(spec.seed)
    teacher = load_gpt2(lesson.teacher)
    for model in (student, teacher):
        choose_attention(model.to(training_device()), spec)
    pair = _Pair(spec, student, teacher, _read_token_map(lesson.teacher, lesson.student))
    _check_window(spec, pair)
    dev = dev_text(lesson.data, load_tokenizer(lesson.student), spec.window)
    before = dev.losses(pair.student, spec.batch_size)
    windows = _teacher_windows(spec, lesson, pair.token_map)
    progress = train_for(spec, pair, pair.loss, windows, lesson.work)
    after = dev.losses(pair.student, spec.batch_size)
    pair.to("cpu")
    return {
        "trained_parameters": sum(weight.numel() for weight in pair.student.parameters()),
        "corpus_tokens": windows.size,
        **{f"{name}_before": loss for name, loss in before.items()},
        **after,
        **progress.notes(),
    }


class _Pair(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Student and teacher; only weights to train are parameters of this module."""

    def __init__(
        self, spec: Distillation, student: GPT2LMHeadModel, teacher: GPT2LMHeadModel, token_map: TokenMap
    ) -> None:
        super().__init__()
        self._spec = spec
        self.student = student
        student.loss_type = "ForCausalLM"  # transformers' default for GPT-2, which it would use with a warning
        self.token_map = token_map
        self._first = token_map.first.to(student.device)
        self.reference = [teacher.eval().requires_grad_(False)]  # a list, so that its weights are not parameters here
        self._matched = matched_layers(spec, student.config.n_layer, teacher.config.n_layer)
        widths = student.config.n_embd, teacher.config.n_embd
        is_as_wide = widths[0] == widths[1]
        self.projections = nn.ModuleList(
            nn.Identity() if is_as_wide else nn.Linear(*widths, bias=False, device=student.device)
            for _ in self._matched
        )

    def loss(self, windows: Windows) -> Tensor:
        """The distillation loss of a batch of the teacher's windows."""
        spec, device = self._spec, self.student.device
        batch = AlignedBatch(*(tensor.to(device) for tensor in align(windows, self.token_map, spec.window)))
        with mixed_precision(device):
            hidden = self._hidden_states(self.student, batch.ids, [student for student, _ in self._matched])
            logits = self.student.lm_head(hidden[-1]).float().flatten(0, 1)
            text = F.cross_entropy(logits[:-1], batch.labels.flatten()[1:], ignore_index=_IGNORED)
            if not spec.teacher_share and not self._matched:
                return text
            states, target = self._teacher_outputs(windows, batch)
        divergence = kl_divergence(logits[batch.student_at], target, spec.temperature)
        loss = (1 - spec.teacher_share) * text + spec.teacher_share * spec.temperature**2 * divergence
        for projection, own, wanted in zip(self.projections, hidden, states, strict=False):
            difference = projection(own.flatten(0, 1)[batch.student_at].float()) - wanted
            share = spec.hidden_weight / len(self._matched)
            loss = loss + share * difference.square().mean() / wanted.square().mean()
        return loss

    def _hidden_states(self, model: GPT2LMHeadModel, ids: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """The states after these layers, counted from 1, and at the end the last ones, which the head gets."""
        found = model.transformer(input_ids=ids, use_cache=False, output_hidden_states=len(layers) > 1)
        states = [found.hidden_states[layer] for layer in layers[:-1]] if len(layers) > 1 else []
        return [*states, found.last_hidden_state]

    def _teacher_outputs(self, windows: Windows, batch: AlignedBatch) -> tuple[list[Tensor], Tensor]:
        """The teacher's matched states and distribution over the student's vocabulary, at the aligned positions."""
        (teacher,) = self.reference
        with torch.no_grad():
            ids = torch.from_numpy(windows.astype(np.int64)).to(teacher.device)
            hidden = self._hidden_states(teacher, ids, [layer for _, layer in self._matched])
            states = [each.flatten(0, 1)[batch.teacher_at] for each in hidden]
            probabilities = teacher.lm_head(states[-1]).float().softmax(-1)
            carried = carry_over(probabilities, self._first, self.student.config.vocab_size)
            return [each.float() for each in states], soften(carried, self._spec.temperature)


def matched_layers(spec: Distillation, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of layers of student and teacher whose states are matched, counted from 1; the last pair is last in both.

    Args:
        spec: What is matched.
        student: The student's number of layers.
        teacher: The teacher's.

    Raises:
        ValueError: the student has more layers.
    """
    if not spec.hidden_weight:
        return []
    if spec.hidden_layers == "last":
        return [(student, teacher)]
    if student > teacher:
        raise ValueError(
            f"{spec.step}.hidden_layers: all {student} of the student, but the teacher has only {teacher}; "
            "allowed: last, or a student with no more layers than its teacher"
        )
    return [(layer, layer * teacher // student) for layer in range(1, student + 1)]


def carry_over(probabilities: Tensor, first: Tensor, vocabulary: int) -> Tensor:
    """Convert probabilities to the student's vocabulary: of a student token, the sum over tokens that begin with it.

    Args:
        probabilities: [rows, teacher's vocabulary].
        first: The first student token of each of the teacher's tokens.
        vocabulary: Size of the student's vocabulary.

    Returns:
        [rows, student's vocabulary].
    """
    carried = probabilities.new_zeros(len(probabilities), vocabulary)
    return carried.index_add_(1, first, probabilities)


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """The distribution of the logits divided by the temperature, [rows, vocabulary].

    It is softened after it is carried over, as the student's own is: a sum of softened parts would be another one.
    """
    raised = probabilities.pow(1 / temperature)
    return raised / raised.sum(-1, keepdim=True)


def kl_divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(target || softmax(logits / temperature)), in nats, mean over rows."""
    predicted = (logits / temperature).log_softmax(-1)
    entropy = torch.special.entr(target).sum(-1)
    return (-(target * predicted).sum(-1) - entropy).mean()


def align(windows: Windows, token_map: TokenMap, window: int) -> AlignedBatch:
    """Convert the teacher's windows to the student's tokens; rows are truncated or padded to `window` tokens."""
    lengths = token_map.lengths[windows]  # [rows, teacher's window]
    ends = lengths.cumsum(1)
    rows = np.repeat(np.arange(len(windows)), lengths.sum(1))
    columns = _count_up(ends[:, -1])
    offsets = (token_map.starts[windows] - ends + lengths).ravel()
    pieces = token_map.flat[np.repeat(offsets, lengths.ravel()) + columns]
    is_inside = columns < window
    ids = np.zeros((len(windows), window), np.int64)
    labels = np.full_like(ids, _IGNORED)
    ids[rows[is_inside], columns[is_inside]] = labels[rows[is_inside], columns[is_inside]] = pieces[is_inside]
    labels[:, 0] = _IGNORED  # the first token of a row is not predicted
    both = (ends <= window).nonzero()
    student_at = both[0] * window + ends[both] - 1
    teacher_at = both[0] * windows.shape[1] + both[1]
    return AlignedBatch(*map(torch.from_numpy, (ids, labels, student_at, teacher_at)))


def _count_up(lengths: Ids) -> Ids:
    """0, 1, ... up to each of the lengths, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


def map_tokens(teacher: Tokenizer, student: Tokenizer) -> TokenMap:
    """Each of the teacher's tokens as a sequence of the student's tokens, by the merges of the teacher's tokenizer.

    Raises:
        ValueError: the student has no tokens for one of them, so that it is not a trimmed form of the teacher's.
    """
    merges = [tuple(merge) for merge in json.loads(teacher.to_str())["model"]["merges"]]
    known = student.get_vocab(with_added_tokens=True)
    sequences = {token: [index] for token, index in known.items()}
    for left, right in merges:
        if left + right not in sequences and left in sequences and right in sequences:
            sequences[left + right] = sequences[left] + sequences[right]
    by_id = sorted((index, token) for token, index in teacher.get_vocab(with_added_tokens=True).items())
    missing = [token for _, token in by_id if token not in sequences]
    if missing:
        raise ValueError(
            f"distill: the student has no tokens for {missing[0]!r}; allowed: the teacher's vocabulary, trimmed"
        )
    return TokenMap([sequences[token] for _, token in by_id])


def _read_token_map(teacher_dir: Path, model_dir: Path) -> TokenMap:
    return map_tokens(load_tokenizer(teacher_dir), load_tokenizer(model_dir))


def _teacher_windows(spec: Distillation, lesson: Lesson, token_map: TokenMap) -> Windows:
    """The training text in windows of the teacher's tokens that fill the student's windows on average."""
    tokenizer = load_tokenizer(lesson.teacher)
    codes = shuffle(read_codes(lesson.data, "train"), spec.seed)
    first = pack(codes[: max(1, len(codes) // 20)], tokenizer, 1)
    return pack(codes, tokenizer, max(1, int(spec.window / token_map.lengths[first].mean())))


def _check_window(spec: Distillation, pair: _Pair) -> None:
    positions = min(pair.student.config.n_positions, pair.reference[0].config.n_positions)
    if spec.window > positions:
        raise ValueError(f"window: {spec.window}; allowed: at most the models' {positions} positions")
