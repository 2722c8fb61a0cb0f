"""onnxruntime with a graph that others made, whose key/value cache goes from one run to the next without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimline.tasks.engines.foreign import Feed, ForeignEngine
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
        self._cache: Feed = {}

    def reset(self) -> None:
        self._cache = {}

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        session = self._next if self._cache or self._first is None else self._first
        inputs = {**feed, **(self._cache or self._empty_cache())} if session is self._next else dict(feed)
        # Neither inputs nor outputs are copied: their memory is shared with onnxruntime.
        logits, *cache = session.run(self._outputs, inputs)
        self._cache = {port.name: value for port, value in zip(self._ports, cache, strict=True)}
        return logits  # type: ignore[no-any-return]

    def reorder(self, parents: Rows) -> None:
        self._cache = {
            port.name: np.take(self._cache[port.name], parents, axis=port.batch_axis) for port in self._ports
        }

    def _empty_cache(self) -> Feed:
        return {port.name: np.zeros(port.shape, dtype=port.dtype) for port in self._ports}
