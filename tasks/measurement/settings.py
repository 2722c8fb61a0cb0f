"""How a study measures: how often, on how much, and how long."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from slimline.tasks.specs import Decoding, Spec


class MeasurementSettings(Spec):
    """How often and on how much a variant is measured."""

    rounds: PositiveInt = Field(
        3, le=1000, description="Passes over all variants, each with new processes: the replicates of the intervals."
    )
    speed_samples: PositiveInt = Field(20, description="Samples timed per variant and round, batch 1.")
    turn_seconds: NonNegativeFloat = Field(
        0, le=600, description="Least seconds that a variant is timed alone in a round: samples are timed again."
    )
    pair_seconds: NonNegativeFloat = Field(
        4,
        le=600,
        description="Least seconds that it takes turns with the baseline in a round, at equal work; up to twice as "
        "many where it is noisy. 0: each sample once.",
    )
    turn_samples: PositiveInt = Field(
        1, description="Samples that one of the two completes before it is the other's turn."
    )
    warmup_samples: PositiveInt = Field(3, description="Untimed samples first, with the real shapes.")
    quality_batch_size: PositiveInt = Field(8, description="Batch for EM and ES; does not change them.")
    threads: NonNegativeInt = Field(0, description="Intra-op threads; 0: every core this process may use.")
    decoding: Decoding = Decoding()
