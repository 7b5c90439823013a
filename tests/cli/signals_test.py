"""SIGINT and SIGTERM: which of them counts, and what it does."""

import signal

import pytest

from ist_jax.cli import signals
from ist_jax.cli.exit_status import STOPPED, exit_status
from ist_jax.cli.signals import Repeats, Signals


class Clock:
    """A clock that stands still until it is told to go."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_training_a_signal_ends_the_command_and_in_training_the_second_one_does(
    number, clock
):
    before = signal.getsignal(number)
    with Signals(Repeats(clock)) as handled:
        with pytest.raises(KeyboardInterrupt, match="ended at once"):
            signal.raise_signal(number)
        clock.now += 5
        with handled.deferred():
            assert not handled.received()
            signal.raise_signal(number)
            assert handled.received()
            clock.now += 5
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert exit_status(lambda: (_ for _ in ()).throw(KeyboardInterrupt("ended"))) == STOPPED


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_arrives_again_within_a_second_is_one(second, clock, capsys):
    with Signals(Repeats(clock)) as handled, handled.deferred():
        for after in (0.0, 0.0005, 0.9):
            clock.now = 100.0 + after
            signal.raise_signal(second if after else signal.SIGTERM)
            assert handled.received()
        assert capsys.readouterr().err == (
            "SIGTERM: saving after this round; another one, a second or more later, ends at once\n"
        )
        clock.now = 101.0
        with pytest.raises(KeyboardInterrupt, match=f"{second.name}: ended at once"):
            signal.raise_signal(second)


def test_a_command_that_a_signal_ends_is_not_ended_again_on_its_way_out(clock):
    """A repeat may come while files are closed, or while the error is printed."""
    with Signals(Repeats(clock)):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        clock.now += 0.0005
        signal.raise_signal(signal.SIGTERM)


def test_a_repeat_after_the_command_is_none_of_the_beginning(clock, monkeypatch):
    ended = []
    monkeypatch.setattr(signals, "_OF_THIS_PROCESS", Repeats(clock))
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    try:
        signals.end_at_once()
        with Signals(signals._OF_THIS_PROCESS), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert not ended
        clock.now += 1
        signal.raise_signal(signal.SIGTERM)
        assert ended == [STOPPED]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
