"""Ctrl-C and SIGTERM: a wish that is noted, read at the end of a step, and on the second time an order."""

import os
import signal

import pytest

from rlhf_images.interruption import Interruption

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Ordered(BaseException):
    pass


@pytest.fixture(autouse=True)
def _handlers():
    """Give both signals a handler that a test can see at work, and put back the ones there were."""

    def order(number, frame):
        raise Ordered(number)

    before = {number: signal.signal(number, order) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sent(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_step_goes_on(number, capfd):
    done = []
    with Interruption() as interruption:
        assert interruption.signal == 0
        for step in range(5):
            if step == 2:
                sent(number)
            done.append(step)
            if interruption.signal:
                break
    assert done == [0, 1, 2]
    assert interruption.signal == number
    assert "once more to stop at once" in capfd.readouterr().err


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_signal_acts_as_it_always_did(first, second):
    with Interruption() as interruption:
        sent(first)
        assert interruption.signal == first
        with pytest.raises(Ordered, match=str(int(second))):
            sent(second)


@pytest.mark.parametrize("interrupted", [False, True])
def test_afterwards_the_handlers_are_those_of_before(interrupted):
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        if interrupted:
            sent(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(ZeroDivisionError), Interruption():
        _ = 1 / 0
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_code_is_the_one_shells_know(number, code):
    with Interruption() as interruption:
        sent(number)
    stop = interruption.stop("step 3 is saved")
    assert stop.exit_code == code
    assert str(stop) == f"stopped by {signal.Signals(number).name}; step 3 is saved; the same command continues"


def test_a_process_that_heard_of_it_from_another_ends_as_on_sigterm():
    assert Interruption().stop("it is saved").exit_code == 143
