"""A real S3 server on loopback: SeaweedFS, whose program comes with the package `weed`."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import FileType, S3FileSystem

from tests.system import PATIENCE_S

BUCKET = "bench"
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_DEFAULT_REGION": "us-east-1"}
SERVICES = ("master", "filer", "volume", "admin")


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """A server with an empty bucket, its data below a directory. Yields its URL."""
    (port, *others), log = _free_ports(1 + len(SERVICES)), directory / "log"
    (directory / "data").mkdir()
    with log.open("w") as out:
        command = _server_command(directory / "data", port, others)
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | KEYS, cwd=directory)
    try:
        _wait_until_it_answers(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        _remove_sockets([port, *others])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports for services that each take a second one, 10,000 above, for gRPC."""
    candidates = random.sample(range(12_000, 32_000), 1000)  # below the ports that the system gives out by itself
    return [port for port in candidates if _is_free(port) and _is_free(port + 10_000)][:count]


def _server_command(directory: Path, port: int, others: list[int]) -> list[str]:
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    loopback = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}"]
    services = [f"-{name}.port={number}" for name, number in zip(SERVICES, others, strict=True)]
    quiet = ["-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
    return [str(weed), "mini", f"-dir={directory}", *loopback, *services, *quiet, f"-bucket={BUCKET}"]


def _remove_sockets(ports: list[int]) -> None:
    """The server leaves them in /tmp, and the place of most cannot be chosen."""
    for port in (*ports, *(port + 10_000 for port in ports)):
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink()


def _has_bucket(url: str) -> bool:
    """Asked with the keys: without them the server says 403 before it has made the bucket."""
    keys = {"access_key": KEYS["AWS_ACCESS_KEY_ID"], "secret_key": KEYS["AWS_SECRET_ACCESS_KEY"]}
    client = S3FileSystem(**keys, region="us-east-1", endpoint_override=url, connect_timeout=1, request_timeout=2)
    try:
        return bool(client.get_file_info(BUCKET).type == FileType.Directory)
    except OSError:
        return False


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if _has_bucket(url):
            return
        time.sleep(0.2)
    raise AssertionError(f"the S3 server does not answer:\n{log.read_text()[-2000:]}")
