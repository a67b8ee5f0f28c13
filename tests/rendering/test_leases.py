"""Who makes what, and who is dead: without locks and without anybody's wall clock."""

import os
import threading
import time
from pathlib import Path

import pytest

from videoaccel.rendering import heartbeat
from videoaccel.rendering.heartbeat import Heartbeat, Observer, gone, new_worker
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.leases import Lease, Leases


def test_one_of_many_gets_a_job(tmp_path: Path) -> None:
    got: list[Lease] = []
    barrier = threading.Barrier(8)

    def race(name: str) -> None:
        barrier.wait()
        if (lease := Leases(Inside(tmp_path), name).claim("a1")) is not None:
            got.append(lease)

    threads = [threading.Thread(target=race, args=(f"w{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert Leases(Inside(tmp_path), "x").holder("a1", 1) == got[0]


def test_one_of_many_takes_it_from_the_dead(tmp_path: Path) -> None:
    lease = Leases(Inside(tmp_path), "dead").claim("a1")
    assert lease is not None
    took: list[bool] = []
    barrier = threading.Barrier(8)

    def race(name: str) -> None:
        barrier.wait()
        took.append(Leases(Inside(tmp_path), name).take(lease))

    threads = [threading.Thread(target=race, args=(f"w{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took.count(True) == 1
    tries = Leases(Inside(tmp_path), "x").look()["a1"]
    assert tries.held is None and tries.dead == [1] and tries.next == 2


def test_a_lease_that_changed_hands_is_not_taken(tmp_path: Path) -> None:
    """An observer that slept over a takeover and the next claim leaves the new holder alone."""
    first, second = Leases(Inside(tmp_path), "w1"), Leases(Inside(tmp_path), "w2")
    old = first.claim("a1")
    assert old is not None
    first.release(old)
    assert second.claim("a1") is not None
    assert not Leases(Inside(tmp_path), "late").take(old)
    assert second.look()["a1"].held == 1


def test_failures_are_counted_and_explained(tmp_path: Path) -> None:
    leases = Leases(Inside(tmp_path), "w")
    for number in (1, 2):
        lease = leases.claim("a1", leases.look().get("a1"))
        assert lease is not None and lease.number == number
        leases.fail(lease, {"error": f"number {number}"})
    assert leases.look()["a1"].failed in ([1, 2], [2, 1]) and leases.why("a1") == "number 2"
    leases.forget("a1")
    assert leases.look() == {} and list(tmp_path.iterdir()) == []


def test_a_counter_that_stands_still_is_death_by_the_observers_clock(tmp_path: Path) -> None:
    now = 1000.0
    watcher = Observer(Inside(tmp_path), 60.0, now=lambda: now)
    beat = tmp_path / "w.beat"
    beat.write_text("1 60.0")
    assert not watcher.dead("w"), "the first look starts the clock"
    now += 59
    assert not watcher.dead("w")
    beat.write_text("2 60.0")
    now += 59
    assert not watcher.dead("w"), "it was raised meanwhile"
    now += 60
    assert watcher.dead("w")
    beat.write_text("3 300.0")
    now += 1
    assert not watcher.dead("w"), "it came back"
    now += 299
    assert not watcher.dead("w"), "by its own word it beats rarely"
    now += 1
    assert watcher.dead("w")


def test_a_worker_without_a_counter_dies_too(tmp_path: Path) -> None:
    now = 0.0
    watcher = Observer(Inside(tmp_path), 2.0, now=lambda: now)
    assert not watcher.dead("never") and not watcher.dead("")
    now = 2.0
    assert watcher.dead("never") and watcher.dead("")


def test_a_heart_beats_while_its_process_lives(tmp_path: Path) -> None:
    watched = []
    with Heartbeat(Inside(tmp_path), "w", stale=0.3, watch=lambda: watched.append(1)) as heart:
        heart.say({"stage": "denoise"})
        first = (tmp_path / heart.beat).read_bytes()
        until = time.monotonic() + 60
        while ((tmp_path / heart.about).read_text() == "{}" or not watched) and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / heart.about).read_text() == '{"stage": "denoise"}' and watched
        assert (tmp_path / heart.beat).read_bytes()[:20] > first[:20] and len(
            (tmp_path / heart.beat).read_bytes()
        ) == len(first)
        assert not gone(first)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="needs /proc")
def test_a_process_that_is_gone_is_dead_at_once(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        with Heartbeat(Inside(tmp_path), "w"):
            os._exit(0)
    while not (tmp_path / "w.beat").exists():
        time.sleep(0.01)
    os.waitpid(pid, 0)
    text = (tmp_path / "w.beat").read_bytes()
    assert gone(text)
    other = text.replace(text.split()[2], b"another-boot")
    assert not gone(other) and not gone(b"") and not gone(b"1 60.0 ? ? ? ? ? ?"), "elsewhere nobody can tell"
    assert Observer(Inside(tmp_path)).dead("w")


def test_workers_names_are_their_own() -> None:
    assert len({new_worker() for _ in range(50)}) == 50
    assert "/" not in new_worker() and "." not in new_worker()
    assert heartbeat.STALE == 60.0
