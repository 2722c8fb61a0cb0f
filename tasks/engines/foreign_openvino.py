"""OpenVINO with a model that others made: its key/value cache is its state, or goes from one run to the next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.engines.foreign import ForeignEngine
from slimline.tasks.engines.openvino_model import compile_model, open_model
from slimline.tasks.engines.search import Rows
from slimline.tasks.models.external import Layout, read_layout
from slimline.tasks.specs import Engine


class ForeignOpenvinoEngine(ForeignEngine):
    """A `ForeignEngine` with OpenVINO's CPU plugin, with the settings of slimline's own models."""

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        layout = read_layout(directory)
        model = compile_model(open_model(directory / layout.graph), engine.dtype, threads)
        super().__init__(layout, _Request(model, layout))


class _Request:
    """The `Runner` of a compiled model."""

    def __init__(self, model: Any, layout: Layout) -> None:
        self._request = model.create_infer_request()
        self._logits = model.output(layout.logits)
        self._ports = [(port, model.output(port.present)) for port in layout.cache]
        self._parents = layout.inputs.parents if layout.inputs else None
        self._order: Rows | None = None
        self._cache: dict[str, NDArray[Any]] = {}

    def reset(self) -> None:
        if not self._ports:
            self._request.reset_state()
        self._order = None
        self._cache = {port.name: np.zeros(port.shape, dtype=port.dtype) for port, _ in self._ports}

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        inputs = {**feed, **self._cache}
        if self._parents and self._order is not None:
            inputs[self._parents.name] = self._order.astype(self._parents.dtype)
        self._order = None
        outputs = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        # The next run overwrites the outputs while it reads them as inputs.
        self._cache = {port.name: outputs[output].copy() for port, output in self._ports}
        logits: NDArray[Any] = outputs[self._logits]
        return logits

    def reorder(self, parents: Rows) -> None:
        self._order = parents
        self._cache = {
            port.name: np.take(self._cache[port.name], parents, axis=port.batch_axis) for port, _ in self._ports
        }
