"""Processes that load data: the same results with any number of them, and an end, with its reason, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from data_fakes import pairs, tar_bytes
from torch import Tensor

from aced.errors import AcedError
from aced.pool.inmemory import InMemory
from aced.pool.loader import loading, shared_memory
from aced.pool.loader.loading import load
from aced.pool.loader.shared_memory import MemoryRoom, check_room
from aced.pool.shards import Shards, open_shards
from aced.pool.tars import indexing
from aced.pool.views import View

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems start processes in another way")
pytestmark = linux


@pytest.fixture(autouse=True)
def _guard() -> Iterator[None]:
    """Nothing here may hang, the tests least of all."""

    def late(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def squares(job: int) -> Tensor:
    return torch.full((3, 1000), job * job)


def run(read: Callable[[int], object], count: int = 6, workers: int = 2, **how: object) -> Iterator[object]:
    return load(read, iter(range(count)), count=count, workers=workers, **how)  # type: ignore[arg-type]


starts = pytest.mark.parametrize("start", ["fork", "forkserver"])


@starts
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int, start: str) -> None:
    found = list(run(squares, 7, workers, start=start))
    assert all(torch.equal(one, squares(job)) for job, one in enumerate(found))  # type: ignore[arg-type]
    assert len(found) == 7
    assert list(run(squares, 0, workers, start=start)) == []


def dies(job: int, how: int) -> Tensor:
    if job == 2:
        if how <= 0:
            os._exit(-how)
        os.kill(os.getpid(), how)
    return squares(job)


@starts
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, "SIGKILL.*memory"),
        (signal.SIGBUS, "SIGBUS.*/dev/shm"),
        (signal.SIGSEGV, "SIGSEGV"),
        (signal.SIGABRT, "SIGABRT"),
        (-7, "status 7"),
        (0, "status 0"),
    ],
)
def test_the_death_of_a_process_is_told_with_its_cause(how: int, said: str, start: str) -> None:
    found = run(partial(dies, how=int(how)), start=start)
    with pytest.raises(AcedError, match=rf"{said}.*data\.workers.*data\.workers=0.*--workers 0"):
        list(found)


def leave(*_: object, **__: object) -> None:
    os._exit(9)


def test_whatever_reads_in_processes_tells_their_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(17):
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(pairs(1, number)))
    opened = open_shards([str(tmp_path)], workers=2)
    monkeypatch.setattr(Shards, "read", leave)
    monkeypatch.setattr(indexing, "index_tar", leave)
    for work in (partial(InMemory, opened, [View(8)], workers=1), partial(open_shards, [str(tmp_path)], workers=2)):
        with pytest.raises(AcedError, match=r"status 9.*data\.workers"):
            work()


def talks(job: int) -> tuple[int, bytes]:
    return os.getpid(), bytes(20_000_000 if job else 1)


@starts
def test_a_process_that_dies_in_the_middle_of_a_message_is_told(start: str) -> None:
    found = run(talks, workers=1, start=start)
    pid, _ = next(found)  # type: ignore[misc]
    time.sleep(0.5)  # the next message is larger than a pipe
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(AcedError, match="SIGKILL"):
        list(found)


def who(_job: int) -> int:
    return os.getpid()


@starts
def test_a_death_disturbs_nothing_but_the_wait_for_a_result(start: str) -> None:
    found = run(who, workers=1, start=start)
    os.kill(int(next(found)), signal.SIGKILL)  # type: ignore[call-overload]
    for _ in range(20):
        time.sleep(0.02)  # a step, or a checkpoint that is written
    with pytest.raises(AcedError, match="SIGKILL"):
        next(found)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


@starts
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_a_whole_job_end_no_loading_process(number: int, start: str) -> None:
    found = run(who, workers=1, start=start)
    pid = int(next(found))  # type: ignore[call-overload]
    subprocess.run(["kill", f"-{int(number)}", str(pid)], check=True)  # not by its parent, whom it obeys
    assert list(found) == [pid] * 5


def sleeps(job: int, seconds: float, busy: bool) -> int:
    end = time.monotonic() + (seconds if job else 0)
    while time.monotonic() < end:
        if not busy:
            time.sleep(seconds)
    return job


@starts
def test_processes_that_hang_are_told_and_slow_ones_are_waited_for(start: str) -> None:
    with pytest.raises(AcedError, match=r"run\.timeout.*data\.workers=0"):
        list(run(partial(sleeps, seconds=600, busy=False), patience=5, start=start))
    assert list(run(partial(sleeps, seconds=4, busy=True), 2, 1, patience=2, start=start)) == [0, 1]


def test_a_process_that_is_stopped_with_a_result_to_hand_over_is_told() -> None:
    found = run(where, workers=1, patience=3)
    pid = next(found)[0]  # type: ignore[index]
    time.sleep(0.5)  # the next one is ready
    os.kill(int(pid), signal.SIGSTOP)
    with pytest.raises(AcedError, match=r"run\.timeout"):
        list(found)


def where(_job: int) -> Tensor:
    return torch.full((1000,), os.getpid())


def gone(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def gone_soon(pids: list[int]) -> list[int]:
    """Those that are not gone after five minutes."""
    deadline = time.monotonic() + 300
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in pids if not gone(pid)]


def busy_after_the_first(job: int) -> int:
    if job:
        time.sleep(600)
    return os.getpid()


def test_processes_that_wait_for_what_still_comes_do_not_hang() -> None:
    begun, patience = time.monotonic(), 1.0
    coming = lambda: int(100 * min(time.monotonic() - begun, 3 * patience))  # noqa: E731 - grows, and then no more
    with pytest.raises(AcedError, match=r"run\.timeout"):
        list(run(partial(sleeps, seconds=600, busy=False), patience=patience, helped=coming))
    assert time.monotonic() - begun > 3 * patience


@starts
def test_whoever_needs_no_more_results_is_rid_of_the_processes(start: str) -> None:
    found = run(busy_after_the_first, workers=1, start=start)
    pid = int(next(found))  # type: ignore[call-overload]
    found.close()  # type: ignore[attr-defined]
    assert gone_soon([pid]) == []


@starts
def test_a_program_that_ends_does_not_wait_for_its_processes(tmp_path: Path, start: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import test_loading as t\n"
        "if __name__ == '__main__':\n"
        f"    found = t.run(t.busy_after_the_first, workers=2, start='{start}')\n"
        "    print(next(found)); kept = [found]; kept.append(kept); raise SystemExit(3)\n"
    )
    places = [str(Path(__file__).parent), str(Path(loading.__file__).parents[4])]
    done = subprocess.run([sys.executable, program, *places], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (3, "")
    assert gone_soon([int(done.stdout)]) == []


def larger_than_a_pipe(_job: int) -> tuple[int, bytes]:
    return os.getpid(), bytes(2**20)


@starts
def test_processes_are_gone_soon_after_their_program_was_killed(tmp_path: Path, start: str) -> None:
    """Also where they have results that nobody takes any more: a queue's thread would wait for ever."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time; sys.path[:0] = sys.argv[1:]\n"
        "import test_loading as t\n"
        "if __name__ == '__main__':\n"
        f"    found = t.run(t.larger_than_a_pipe, workers=2, start='{start}')\n"
        "    print(next(found)[0], next(found)[0], flush=True); time.sleep(1); os.kill(os.getpid(), 9)\n"
    )
    places = [str(Path(__file__).parent), str(Path(loading.__file__).parents[4])]
    done = subprocess.run([sys.executable, program, *places], stdout=subprocess.PIPE, timeout=300)
    assert done.returncode == -9
    pids = [int(word) for word in done.stdout.split()]
    assert len(set(pids)) == 2
    left = gone_soon(pids)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def raises(job: int, error: Exception) -> int:
    if job == 1:
        raise error
    return job


@starts
@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_reading_are_those_of_the_reader(workers: int, start: str) -> None:
    found = run(partial(raises, error=AcedError("The tar has changed.")), workers=workers, start=start)
    assert next(found) == 0
    with pytest.raises(AcedError, match=r"^The tar has changed\.$"):
        next(found)
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        list(run(partial(raises, error=ZeroDivisionError("b")), workers=workers, start=start))


def test_faults_of_the_machine_in_a_process_are_one_sentence() -> None:
    with pytest.raises(AcedError, match=r"^a\.tar: Too many open files\.$"):
        list(run(partial(raises, error=OSError(errno.EMFILE, "Too many open files", "a.tar"))))
    with pytest.raises(AcedError, match=r"^[^\n]*memory[^\n]*data\.workers[^\n]*$"):
        list(run(partial(raises, error=MemoryError())))


# -- /dev/shm ------------------------------------------------------------------------------------------------

M = 2**20


@pytest.mark.parametrize(
    ("room", "workers", "count", "ahead"),
    [
        (MemoryRoom(50 * M, 50 * M), 2, 100, 2),  # five batches of 10 MB
        (MemoryRoom(50 * M, 50 * M - 1), 2, 100, 1),  # four do not fit, three do
        (MemoryRoom(50 * M, 30 * M), 2, 100, 1),
        (MemoryRoom(50 * M, 10 * M), 8, 1, 2),  # there is only one
        (None, 64, 100, 2),
    ],
)
def test_processes_have_ahead_what_there_is_room_for(
    room: MemoryRoom | None, workers: int, count: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "measure", lambda: room)
    assert check_room(10 * M, workers, count) == ahead


def test_too_little_room_is_refused_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "measure", lambda: MemoryRoom(64 * M, 61 * M))
    words = r"9 chunks of 10 MB .*/dev/shm.* 64 MB, 61 MB .*data\.workers=5 .*data\.workers=0.*--workers 0.*--shm-size"
    with pytest.raises(AcedError, match=words):
        check_room(10 * M, 8, 100)
    assert check_room(10 * M, 5, 100) == 1
    with pytest.raises(AcedError, match=r"2 chunks of 40 MB.*data\.workers=0"):
        check_room(40 * M, 1, 100)


def test_processes_of_a_job_share_the_room_and_have_as_much_ahead_as_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_memory, "measure", lambda: MemoryRoom(100 * M, 60 * M))  # the other has begun
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert check_room(10 * M, 2, 100) == 2
    with pytest.raises(AcedError, match=r"7 chunks of 10 MB.* 2 processes.*data\.workers=2"):
        check_room(10 * M, 3, 100)


def full(*_: object) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")


def test_a_batch_without_room_is_told_by_whoever_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    with pytest.raises(AcedError, match=r"/dev/shm.*MB.*data\.workers.*data\.workers=0.*--shm-size"):
        list(run(squares))


def test_what_cannot_be_handed_over_for_another_reason_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: "/tmp/" + "x" * 200)  # of the sockets
    with pytest.raises(AcedError, match=r"AF_UNIX.*data\.workers=0"):
        list(run(squares))


def test_processes_that_cannot_be_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(AcedError, match=r"Resource temporarily unavailable.*data\.workers=0"):
        run(squares)


def test_locks_that_cannot_be_made_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(AcedError, match=r"Read-only file system.*data\.workers=0") as raised:
        run(squares)
    del raised
    gc.collect()
    assert complaints == []


_SMALL = "import sys; sys.path[:0] = sys.argv[1:]; import test_loading as t\nlist(t.run(t.large, 40, 2))"


def large(_job: int) -> Tensor:
    return torch.zeros(1 << 20, dtype=torch.uint8)


def test_a_small_file_system_is_told(tmp_path: Path) -> None:
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=512k tmpfs /dev/shm && exec "$@"', "sh"]
    if not Path("/usr/bin/unshare").exists() or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("mounting takes rights that are not there")
    places = [str(Path(__file__).parent), str(Path(loading.__file__).parents[4])]
    command = [*mount, sys.executable, "-c", _SMALL, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 1
    assert "AcedError: A chunk" in done.stderr.splitlines()[-1]
    assert "/dev/shm, which has 0.5 MB" in done.stderr
