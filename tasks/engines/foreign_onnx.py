"""onnxruntime with a graph that others made, whose key/value cache goes from one run to the next without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from slimline.tasks.engines.foreign import ForeignEngine
from slimline.tasks.engines.onnx_engine import open_session, usual_options
from slimline.tasks.engines.search import Rows
from slimline.tasks.models.external import Layout, read_layout
from slimline.tasks.specs import Engine


class ForeignOnnxEngine(ForeignEngine):
    """A `ForeignEngine` with onnxruntime's CPU provider."""

    def __init__(self, engine: Engine, directory: Path, threads: int) -> None:
        layout = read_layout(directory)
        super().__init__(layout, _Sessions(directory, layout, threads))


class _Sessions:
    """The `Runner` of a graph, and of another one for the first run if there is one."""

    def __init__(self, directory: Path, layout: Layout, threads: int) -> None:
        options = usual_options(threads)
        self._ports = layout.cache
        self._outputs = [layout.logits, *(port.present for port in layout.cache)]
        self._next = open_session(directory / layout.graph, options)
        self._first = open_session(directory / layout.first_graph, options) if layout.first_graph else None
        self._cache: dict[str, ort.OrtValue] = {}

    def reset(self) -> None:
        self._cache = {}

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        session = self._next if self._cache or self._first is None else self._first
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
        if session is self._next:
            values |= self._cache or self._empty_cache()
        logits, *cache = session.run_with_ort_values(self._outputs, values)
        self._cache = {port.name: value for port, value in zip(self._ports, cache, strict=True)}
        return np.from_dlpack(logits)  # without a copy

    def reorder(self, parents: Rows) -> None:
        for port in self._ports:
            rows = np.take(self._cache[port.name].numpy(), parents, axis=port.batch_axis)
            self._cache[port.name] = ort.OrtValue.ortvalue_from_numpy(rows)

    def _empty_cache(self) -> dict[str, ort.OrtValue]:
        empty = {port.name: np.zeros(port.shape, dtype=port.dtype) for port in self._ports}
        return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in empty.items()}
