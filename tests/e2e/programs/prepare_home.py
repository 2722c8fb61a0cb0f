"""Fill a new state directory with what is the same for every run of a small study: prepare_home.py STUDY."""

import sys

from slimline.flows.cli.flow_runner import prepare_home
from slimline.flows.config.study import load_study
from slimline.storage.stores import artifact_store
from slimline.tasks.build import apply_step, make_base, prepare_data
from slimline.tasks.measurement.peaks import host_peaks
from slimline.tasks.measurement.rounds import threads_of
from slimline.tasks.specs import ExportOnnx

if __name__ == "__main__":  # the processes that read the data import this module
    prepare_home()
    study, store = load_study(sys.argv[1]), artifact_store()
    base = make_base(study.base, prepare_data(study.data, store), store)
    apply_step(ExportOnnx(), base, store)
    host_peaks(threads_of(study.measuring))
