"""Measure as the request on standard input says, in a probe that has to die with this process."""

import sys

from slimline.tasks.measurement.probe import ProbeRequest
from slimline.tasks.measurement.probe_process import run_probe

run_probe(ProbeRequest.model_validate_json(sys.stdin.read()), 600)
