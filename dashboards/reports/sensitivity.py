"""What each tensor of activations costs in 8 bits, as mixed-precision quantization measured it: a table and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from slimline.dashboards.reports.charts import BLUE, VERMILLION, inline_data, layered
from slimline.dashboards.reports.lineage import Origin
from slimline.storage.text import clean

_ROW_HEIGHT = 18
_ROOM_FOR_WORDS = 1.1
_COLOURS = {"8 bits": BLUE, "16 bits": VERMILLION}


class TensorSensitivity(NamedTuple):
    """A tensor, the mean divergence when only it has 8 bits, in nats per token, and the bits that it got."""

    tensor: str
    divergence: float
    bits: int


class Analysis(NamedTuple):
    """The sensitivity of a model's tensors, the largest first, and the variants that it was made for."""

    variants: tuple[str, ...]
    tensors: list[TensorSensitivity]


_NOTE = TypeAdapter(list[TensorSensitivity], config=ConfigDict(allow_inf_nan=False))


def analyses(origins: Sequence[Origin]) -> list[Analysis]:
    """The analyses of a run's measured artifacts; one without any, or that cannot be read, is left out."""
    found = []
    for origin in (each for each in origins if each.variants):
        try:
            tensors = _NOTE.validate_python(origin.provenance.notes.get("sensitivity"))
        except ValidationError:
            continue
        found.append(Analysis(origin.variants, tensors))
    return found


def sensitivity_chart(analysis: Analysis) -> alt.LayerChart:
    """Bars, the longest first, of what every tensor costs; colour and the word beside the bar say its bits."""
    data = [
        {"tensor": clean(each.tensor), "divergence": each.divergence, "bits": f"{each.bits} bits"}
        for each in analysis.tensors
    ]
    longest = max((each.divergence for each in analysis.tensors), default=0.0)
    base = alt.Chart(inline_data(data)).encode(
        x=alt.X(
            "divergence:Q",
            title="divergence from fp32 if only this tensor has 8 bits, nats per token",
            scale=alt.Scale(domain=[0, _ROOM_FOR_WORDS * longest], nice=False),
        ),
        y=alt.Y("tensor:N", title=None, sort=[clean(each.tensor) for each in analysis.tensors]),
    )
    colour = alt.Color("bits:N", title="it gets", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())))
    layers = [base.mark_bar().encode(color=colour), base.mark_text(align="left", dx=4).encode(text="bits:N")]
    description = f"what each of {len(data)} tensors costs in 8 bits, for {', '.join(map(clean, analysis.variants))}"
    return layered(layers, _ROW_HEIGHT * len(data), description)
