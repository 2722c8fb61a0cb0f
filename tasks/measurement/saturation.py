"""Whether an artifact's int8 arithmetic is right on this processor.

x86 processors without VNNI add two products of 8-bit numbers in 16 bits. With weights of 8 bits such a sum can be too
large for them, and the processor cuts it off without a sign of it; with weights of 7 bits it always fits.
"""

from __future__ import annotations

from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.tasks.measurement.rounds import all_notes
from slimline.tasks.runtime.host import usable_weight_bits


def saturation(artifact: ArtifactRef, store: ArtifactStore) -> str | None:
    """Why an artifact's products of integers are wrong on this processor, and what helps; None if they are right.

    Weights in int8 whose products are in floating point do not saturate, whatever their bits.
    """
    notes = all_notes(artifact, store)
    bits, usable = notes.get("weight_bits"), usable_weight_bits()
    if not notes.get("int8_matmuls") or not isinstance(bits, int) or bits <= usable:
        return None
    return (
        f"its int8 weights have {bits} bits, which saturate on this processor (no VNNI), so its completions would be "
        f"wrong; build it with weight_bits: {usable} in its int8 step, or run the benchmark on this host"
    )
