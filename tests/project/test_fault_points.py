"""Ordered faults happen where and when they were ordered, once, and to one peer alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fault_points import Faults, Orders, Point, corrupt, happened
from places import ROOT, SUPPORT

CLAIM = Point("before", "send", "claim")


def armed(home: Path, faults: Faults, *, markers: Path) -> Orders:
    home.mkdir(exist_ok=True)
    orders = Orders(home / "faults.json")
    orders.arm(faults, markers=markers)
    return orders


def test_a_fault_happens_at_its_point_and_in_its_round_alone(tmp_path: Path) -> None:
    orders = armed(tmp_path, Faults().at(CLAIM).at_round(3).kill(), markers=tmp_path / "markers")
    assert orders.take(CLAIM, 2) == []
    assert orders.take(CLAIM, 4) == []
    assert orders.take(Point("after", "send", "claim"), 3) == []
    assert [fault.deed for fault in orders.take(CLAIM, 3)] == ["kill"]


def test_a_fault_from_some_round_on_waits_for_the_peer_to_get_there(tmp_path: Path) -> None:
    faults = Faults().before("send", "claim").from_round(3).stop(seconds=8)
    orders = armed(tmp_path, faults, markers=tmp_path / "markers")
    assert orders.take(CLAIM, 2) == []
    assert [fault.seconds for fault in orders.take(CLAIM, 7)] == [8]


def test_it_happens_once_also_to_a_peer_that_was_started_again(tmp_path: Path) -> None:
    orders = armed(tmp_path, Faults().at(CLAIM).kill(), markers=tmp_path / "markers")
    assert len(orders.take(CLAIM, 1)) == 1
    assert orders.take(CLAIM, 1) == []
    assert Orders(tmp_path / "faults.json").take(CLAIM, 1) == []


def test_of_peers_with_the_same_orders_the_first_to_get_there_is_hit(tmp_path: Path) -> None:
    faults, markers = Faults().at(CLAIM).kill().after("write", "promise").kill(), tmp_path / "markers"
    one = armed(tmp_path / "one", faults, markers=markers)
    other = armed(tmp_path / "other", faults, markers=markers)
    assert len(other.take(CLAIM, 1)) == 1
    assert one.take(CLAIM, 1) == []
    assert len(one.take(Point("after", "write", "promise"), 1)) == 1
    assert happened(markers) == {0: tmp_path / "other", 1: tmp_path / "one"}


def test_new_orders_replace_the_old_ones_in_a_peer_that_runs(tmp_path: Path) -> None:
    armed(tmp_path, Faults().at(CLAIM).kill(), markers=tmp_path / "first")
    running = Orders(tmp_path / "faults.json")
    assert running.take(Point("before", "send", "block"), 1) == []
    armed(tmp_path, Faults(), markers=tmp_path / "second")
    assert running.take(CLAIM, 1) == []


def test_corruption_turns_over_one_byte_of_each_file_that_matches(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(9))
    (tmp_path / "b.txt").write_bytes(bytes(9))
    assert corrupt(tmp_path, "*.bin") == [tmp_path / "a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == bytes(4) + b"\xff" + bytes(4)
    assert (tmp_path / "b.txt").read_bytes() == bytes(9)


# On a busy machine, whatever signal a process sends itself may come after the one that is to wake it.
LATE = """
import os, sys
from pathlib import Path
from fault_join import Clock, Injector

kill = os.kill

def late(pid, number):
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    kill(pid, number)

os.kill = late
Injector(Path(sys.argv[1]), Clock()).passes("before", "send", "claim")
print("awake")
"""


def test_a_stopped_process_is_woken_however_late_it_comes_to_stop(tmp_path: Path) -> None:
    armed(tmp_path, Faults().at(CLAIM).stop(seconds=0.1), markers=tmp_path / "markers")
    command = [sys.executable, "-c", LATE, str(tmp_path / "faults.json")]
    rooms = {**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    with subprocess.Popen(command, env=rooms, stdout=subprocess.PIPE, text=True) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert process.communicate(timeout=30)[0] == "awake\n"
        finally:
            process.kill()
