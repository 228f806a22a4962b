"""Signals to a process that a guard protects, without Ray: who ends it, when, and with what exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.sweeps.conftest import ROOT

PROGRAM = """
import ctypes, sys, time
from sweeps import guard as module
from sweeps.guard import Guard

def last_words(reason, seconds):
    print("last words:", reason, flush=True)

def stand_still():
    # A call that no signal interrupts, as one to a Ray that is gone.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)

with Guard(last_words) as guard:
    guard.has_work = True
    print("ready", flush=True)
    exec(sys.argv[1])
print("after", flush=True)
"""


@pytest.fixture
def start() -> Iterator:
    started = []

    def begin(body: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, body]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_for_an_orderly_end(start, number):
    process = start("guard.draining.wait(); print('drained', guard.seconds_left(99) < 30)")
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "drained True\nafter\n")


def test_without_work_the_end_is_at_once(start):
    process = start("guard.has_work = False; print('set', flush=True); stand_still()")
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "last words: interrupted\n")


def test_a_second_interrupt_ends_at_once_whatever_the_main_thread_does(start):
    process = start("stand_still()")
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(1)
    os.kill(process.pid, signal.SIGTERM)  # what sends this sends it often; it means what it meant
    time.sleep(1)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "last words: interrupted again\n")


def test_a_journal_that_waits_for_storage_does_not_delay_the_end(start, tmp_path):
    body = f"""
import resource
from results.errors import StorageRefusedError
from results.journal import Journal
signal = __import__("signal")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal({str(tmp_path / "journal.jsonl")!r})
guard._hurry = journal.hurry
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
print("set", flush=True)
try:
    journal.append("created")
except StorageRefusedError:
    print("refused", guard.draining.is_set(), flush=True)
"""
    process = start(body)
    assert process.stdout is not None
    assert process.stdout.readline() == "set\n"
    time.sleep(1)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "refused True\nafter\n")


def test_an_end_that_hangs_is_cut_off(start):
    process = start("module.EXIT_SECONDS = 8; print('set', flush=True); stand_still()")
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGHUP)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "last words: the orderly end took too long\n")


def test_a_loss_ends_the_process_with_its_reason(start):
    process = start("guard.is_lost = lambda: 'Ray is gone'; stand_still()")
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "last words: Ray is gone\n")


def test_last_words_that_hang_do_not_keep_it(start):
    body = "guard._last_words = lambda *_: time.sleep(99); guard.draining.wait(); time.sleep(99)"
    process = start(body)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 1
