"""Start a child process, and wait for it: both end when their input is closed."""

import subprocess
import sys

subprocess.run([sys.executable, "-c", "input()"], check=False)
