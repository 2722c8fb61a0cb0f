"""A Slurm cluster of one node on loopback, for a test: daemons, ports and keys of its own."""

import os
import platform
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.system import PATIENCE_S, require

# cons_tres counts what a job asks for; the other plugins do without cgroups, a database and MPI.
_CONFIG = """
ClusterName=slimline
SlurmctldHost={node}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
KillWait=2
NodeName={node} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 State=UNKNOWN
PartitionName=compute Nodes={node} Default=YES MaxTime=02:00:00 State=UP
"""


@contextmanager
def slurm_cluster(directory: Path) -> Iterator[Mapping[str, str]]:
    """Run the cluster with its files in `directory`; yields the environment in which sbatch finds it."""
    for name in ("state", "spool"):
        (directory / name).mkdir(parents=True)
    (directory / "munge.key").write_bytes(secrets.token_bytes(128))
    (directory / "munge.key").chmod(0o400)
    directory.chmod(0o755)  # munged refuses a socket that its clients cannot reach
    config = directory / "slurm.conf"
    controller, daemon = _free_ports(2)
    values = {"node": platform.node(), "user": os.environ.get("USER", "root"), "directory": directory}
    config.write_text(_CONFIG.format(**values, controller=controller, daemon=daemon))
    environment = {"SLURM_CONF": str(config)}
    munge = ["--foreground", "--force", "--num-threads=1", f"--key-file={directory}/munge.key"]
    munge += [f"--socket={directory}/munge.socket", f"--pid-file={directory}/munged.pid"]
    munge += [f"--log-file={directory}/munged.log", f"--seed-file={directory}/munged.seed"]
    with ExitStack() as daemons:
        for binary, options in (
            ("munged", munge),
            ("slurmctld", ["-D", "-f", str(config)]),
            ("slurmd", ["-D", "-f", str(config), "-N", platform.node()]),
        ):
            daemons.enter_context(_daemon([require(binary), *options], directory / f"{binary}.out"))
        _await_ready({**os.environ, **environment}, directory)
        try:
            yield environment
        finally:
            subprocess.run(["scancel", "--full", "--state=RUNNING"], env={**os.environ, **environment}, check=False)


@contextmanager
def _daemon(command: list[str], output: Path) -> Iterator[None]:
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(environment: Mapping[str, str], directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        asked = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
        )
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = [f"{path.name}: {path.read_text(errors='replace')[-500:]}" for path in sorted(directory.glob("*.out"))]
    raise AssertionError("Slurm is not ready:\n" + "\n".join(logs))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
