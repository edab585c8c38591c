"""A thread beside the steps: its outcome is kept for whoever asks, and it steps back from the processor."""

import os
import sys
import threading

import pytest

from tttscale.train.checkpoint.background import done_now, in_background


def test_the_result_or_the_error_is_the_futures():
    assert in_background(lambda: 3, "test").result(60) == 3
    with pytest.raises(KeyboardInterrupt):
        in_background(lambda: (_ for _ in ()).throw(KeyboardInterrupt), "test").result(60)


def test_what_is_done_at_once_is_told_alike():
    assert done_now(lambda: 3).result(0) == 3
    failed = done_now(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(0)
    with pytest.raises(KeyboardInterrupt):  # it is this thread's
        done_now(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_it_does_not_keep_the_process_from_ending():
    go_on = threading.Event()
    future = in_background(lambda: (threading.current_thread(), go_on.wait(60))[0], "a name")
    assert not future.done()
    go_on.set()
    thread = future.result(60)
    assert thread.daemon
    assert thread.name == "a name"


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_it_and_its_threads_step_back_and_the_caller_does_not():
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def beside():
        own, inner = niceness(), []
        thread = threading.Thread(target=lambda: inner.append(niceness()))
        thread.start()
        thread.join()
        return own, *inner

    before = niceness()
    expected = min(19, before + 5)
    assert in_background(beside, "test").result(60) == (expected, expected)
    assert niceness() == before
