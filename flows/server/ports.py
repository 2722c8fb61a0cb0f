"""Whether an address can be listened on: asked before a server is started that could only say so in its log."""

from __future__ import annotations

import socket


def require_free(host: str, port: int) -> None:
    """Check that a server could listen there; ValueError naming --host and --port if it could not."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise ValueError(f"--host: {host!r} is no address of this machine; allowed: such as 127.0.0.1") from error
    except OSError as error:
        reason = f"{host}:{port} cannot be listened on ({error.strerror}); choose another"
        raise ValueError(f"--host, --port: {reason}; allowed: an own address and a free port") from error
