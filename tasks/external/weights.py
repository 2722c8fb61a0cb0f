"""The weights of a model that others made: their number, and a check of their values."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.models.checkpoint import refuse_not_finite

Tensors = Iterable[tuple[str, NDArray[Any]]]


def count_weights(where: str, tensors: Tensors, vocabulary: int) -> dict[str, int]:
    """Check and count weights; a head that is the embedding again, or the embedding transposed, counts once.

    Args:
        where: The file, for the message.
        tensors: Names and values.
        vocabulary: By which a head and an embedding are told.

    Returns:
        Notes for provenance: parameters, parameters_nonzero.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    total = nonzero = 0
    tables = set()
    for name, values in tensors:
        refuse_not_finite(where, [(name, values)])
        if values.ndim == 2 and vocabulary in values.shape:
            rows = values if values.shape[0] == vocabulary else values.T
            digest = sha256(np.ascontiguousarray(rows).data).digest()
            if digest in tables:
                continue
            tables.add(digest)
        if values.size > 1:  # others are constants of formulas
            total += values.size
            nonzero += int(np.count_nonzero(values))
    return {"parameters": total, "parameters_nonzero": nonzero}
