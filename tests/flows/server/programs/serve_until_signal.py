"""`slimline serve` with nothing to supervise, started as by a script's background job: SIGINT is ignored."""

import signal
import sys
from threading import Event

from slimline.flows.server import supervisor
from slimline.flows.server.supervisor import ServeOptions, serve


class Idle:
    """Starts nothing, and waits for its end."""

    def __init__(self, options: ServeOptions, secret: str, stop: Event) -> None:
        self._stop = stop

    def start(self) -> None:
        print("ready", flush=True)

    def supervise(self) -> None:
        self._stop.wait()

    def stop(self) -> None:
        print("stopped", flush=True)


signal.signal(signal.SIGINT, signal.SIG_IGN)
# The tests themselves may be run under nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)
supervisor.Supervisor = Idle  # type: ignore[assignment, misc] # it has what `serve` calls
print(serve(ServeOptions("127.0.0.1", 4200, ())))
