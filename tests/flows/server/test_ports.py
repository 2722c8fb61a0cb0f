"""Addresses that a server cannot listen on are refused before it is started."""

import socket

import pytest

from slimline.flows.server.ports import require_free_port


def test_a_free_port_may_be_used() -> None:
    require_free_port("127.0.0.1", 0)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"--port: 127.0.0.1:{port} .*in use"):
            require_free_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_of_another_machine_is_named(host: str) -> None:
    with pytest.raises(ValueError, match=f"--host.*{host}"):
        require_free_port(host, 4200)
