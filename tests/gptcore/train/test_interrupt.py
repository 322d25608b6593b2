"""Signals become requests; the second one acts as usual."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from gptcore.train.interrupt import defer_sigterm, stop_requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with stop_requests() as stop:
        assert stop.signal_name is None
        os.kill(os.getpid(), number)
        assert stop.signal_name == number.name
        assert {n: signal.getsignal(n) for n in before} == before
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_second_interrupt_acts_as_usual() -> None:
    def interrupt_twice() -> None:
        with stop_requests():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_sigterm_is_left_to_whoever_handles_it_already() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal_name is None
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_handled() -> None:
    found: list[object] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with stop_requests() as stop:
            found.extend([stop.signal_name, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None, before]


def test_sigterm_waits_for_the_end_of_an_update_and_then_acts_as_before() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: seen.append("stopped"))
    try:
        with defer_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("updated")
        assert seen == ["updated", "stopped"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["updated", "stopped", "stopped"]
    finally:
        signal.signal(signal.SIGTERM, before)
