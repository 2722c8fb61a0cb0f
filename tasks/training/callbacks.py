"""Callbacks of the Trainer: checkpoints at time intervals, and progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slimline.tasks.runtime.progress import report
from slimline.tasks.training.resume import mark_complete


class TimedCheckpoints(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Request a checkpoint every `minutes`, and mark it as complete when the Trainer has written it.

    With an interval in minutes, not in steps, the work that a kill can lose does not depend on the time of a step.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Request a checkpoint if the last one is too old."""
        # Not after the last step: the Trainer would do one step too many if it resumed from there.
        if time.monotonic() - self._saved >= self._seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the new checkpoint as complete."""
        mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._saved = time.monotonic()


class ProgressReport(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Report the progress of a training to the listeners."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report the share of finished steps."""
        report("training", state.global_step / state.max_steps)


class LossBar(ProgressCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """The Trainer's progress bar with the loss, instead of a printed dictionary for each log entry."""

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
