"""Run a sleeping worker with this interpreter, and print its process id."""

import sys
from pathlib import Path

from slimline.tasks.itrex import process, worker
from slimline.tasks.runtime.progress import progress_listener

process.WORKER = Path(__file__).with_name("sleeping_worker.py")
process.python_of_environment = lambda: Path(sys.executable)
with progress_listener(lambda description, share: print(description, flush=True)):
    process.run_worker({"what": worker.__file__}, Path(sys.argv[1]))
