"""The entry point of every command."""

import signal
from typing import Any

import pytest

from slimline.flows.cli import __main__ as module


def test_a_command_can_be_interrupted_although_a_background_job_ignores_sigint(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[Any] = []
    monkeypatch.setattr(module, "app", lambda: handlers.append(signal.getsignal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        module.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert handlers == [signal.default_int_handler]
