"""Hold the machine lock some times, and write down when: hold_lock.py RECORD SECTIONS SECONDS [orphan].

With "orphan" a child process is started in the section, which inherits whatever can be inherited and outlives it.
"""

import subprocess
import sys
import time
from pathlib import Path

from slimline.storage.paths import home
from slimline.tasks.runtime.machine_lock import machine_lock

record, sections, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
for number in range(sections):
    with machine_lock(f"section {number} of {home()}"):
        started = time.monotonic_ns()  # one clock for all processes of the machine
        if "orphan" in sys.argv:
            orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
            print("orphan", orphan.pid, flush=True)
        print("holding", flush=True)
        time.sleep(seconds)
        with record.open("a") as file:
            file.write(f"{started} {time.monotonic_ns()}\n")
