"""Trainer callbacks every training shares: checkpoints by the clock, and a quiet progress bar."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slimline.tasks.runtime.progress import report
from slimline.tasks.training.resume import seal


class TimedCheckpoints(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Ask for a checkpoint every `minutes`, and seal each one when the Trainer has written it.

    By the clock, not by steps: what a kill can cost is then the same for a model of a second and of a minute a step.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint if the last one is old."""
        # None after the last step: resumed from there, the Trainer does one step too many.
        if time.monotonic() - self._saved >= self._seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Seal the checkpoint just written."""
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._saved = time.monotonic()


class Reported(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Tell whoever listens how far the training is: its bar speaks to a terminal only."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report the share of the steps that are done."""
        report("training", state.global_step / state.max_steps)


class LossBar(ProgressCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Trainer's progress bar with the loss beside it, instead of one printed dictionary per log entry."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest loss."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")
