"""Making pictures side by side: the same in any number of processes, from any script, and an end when one is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlcompress.data.scenes.processes import spread
from vlcompress.errors import VlcompressError


def ended(item: int) -> int:
    """End the process that it runs in, as the kernel does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    with spread(abs, range(-100, 0), processes) as made:
        assert list(made) == list(range(100, 0, -1))


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from vlcompress.data.scenes.processes import spread\n"
        "print('once')\n"
        "with spread(abs, range(-100, 0), 2) as made:\n"
        "    print(sum(made))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["once", "5050"]
    assert "Traceback" not in ran.stderr


def slow(item: int) -> int:
    """Take long enough that all items together would be noticed."""
    time.sleep(0.01)
    return item


def interrupted(items: range) -> None:
    """Take the first of what is made, and be interrupted."""
    with spread(slow, items, 2) as made:
        next(made)
        raise KeyboardInterrupt


def test_whoever_stops_early_does_not_wait_for_the_rest() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(range(6000))  # all of it: 30 s
    assert time.monotonic() - started < 15


def test_a_killed_process_is_told() -> None:
    with pytest.raises(VlcompressError, match=r"one of 2 processes .* ended"), spread(ended, [1, 2], 2) as made:
        list(made)
