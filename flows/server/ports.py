"""Whether a server can listen on an address: checked before one is started that could only say so in its log."""

from __future__ import annotations

import socket


def require_free_port(host: str, port: int) -> None:
    """Check that a server could listen there.

    Raises:
        ValueError: it could not; the message names --host and --port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        reason = f"{host!r} is not an address of this machine"
        raise ValueError(f"--host: {reason}; allowed: such as 127.0.0.1") from error
    except OSError as error:
        reason = f"{host}:{port} cannot be listened on ({error.strerror}); choose another"
        raise ValueError(f"--host, --port: {reason}; allowed: an own address and a free port") from error
