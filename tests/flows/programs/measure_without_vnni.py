"""Measure an order on a processor that claims to have no VNNI, and for which far too low peaks are kept.

python measure_without_vnni.py ORDER.json
"""

import sys
from pathlib import Path

from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.tasks.measurement import peaks, saturation

TOO_LOW = 1e-9
RATES = ("fp32_gflops", "bf16_gflops", "int8_gops", "read_gb_s")

if __name__ == "__main__":
    saturation.usable_weight_bits = lambda: 7
    peaks._measure_in_child = lambda threads: {**dict.fromkeys(RATES, TOO_LOW), "kernels": {"fp32": "none"}}
    measure(Order.model_validate_json(Path(sys.argv[1]).read_text("utf8")))
