"""Other processes count as load, our own do not."""

import os
import subprocess
import sys
import time

from fpnas.stages import load
from fpnas.stages.load import OtherLoad, is_disturbed

SPIN = "import time\nuntil = time.process_time() + 0.6\nwhile time.process_time() < until: pass"


def seconds_below(root):
    return load._ticks_below(root) / os.sysconf("SC_CLK_TCK")


def test_what_children_compute_is_ours_while_they_run_and_when_they_have_ended():
    before = seconds_below(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", SPIN + "\ntime.sleep(60)"])
    try:
        deadline = time.monotonic() + 60
        while seconds_below(child.pid) < 0.6:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert seconds_below(os.getpid()) - before >= 0.6
    finally:
        child.kill()
        child.wait()
    assert seconds_below(os.getpid()) - before >= 0.6


def test_what_others_compute_is_the_rest(monkeypatch):
    busy = iter([1000, 1700])
    own = iter([400, 600])
    monkeypatch.setattr(load.Path, "read_text", lambda *_, **__: f"cpu {next(busy)} 0 0 9 9 0 0 0")
    monkeypatch.setattr(load, "_ticks_below", lambda _: next(own))
    monkeypatch.setattr(load.os, "sysconf", lambda _: 100)
    clock = iter([50.0, 60.0])
    monkeypatch.setattr(load.time, "monotonic", lambda: next(clock))
    # 7 core-seconds by all, 2 of them ours, within 10 seconds.
    assert OtherLoad().cores() == 0.5


def test_a_machine_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "_PROC", tmp_path)
    assert OtherLoad().cores() is None


def test_disturbed_is_a_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(load.os, "cpu_count", lambda: 4)
    assert [is_disturbed(cores) for cores in (None, 0.0, 0.39, 0.41)] == [False, False, False, True]
