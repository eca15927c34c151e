"""PIN hashing with real worker processes, some of which are killed or stopped."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import bcrypt
import pytest
import uvloop

from service.credentials import pin_hasher
from service.credentials.pin_hasher import PinHasher, Worker
from service.errors import Overloaded
from tests.conftest import ROOT, served
from tests.eventually import eventually

PIN = "4711"
FAST = bcrypt.hashpw(PIN.encode(), bcrypt.gensalt(4)).decode()
BUSY = bcrypt.hashpw(PIN.encode(), bcrypt.gensalt(10)).decode()
ENDLESS = FAST.replace("$04$", "$16$")
SALT = FAST[7:29]


def stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, …; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(of: int) -> set[int]:
    """The child processes, including zombies."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and stat(int(entry.name))[1:2] == [str(of)]:
            found.add(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def files(pid: int) -> dict[int, str]:
    """The open files by descriptor."""
    return {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def loaded(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()


def kill_and_wait(pid: int) -> None:
    """Kills a process while the event loop stands still, so that the loop sees no closed pipe."""
    os.kill(pid, signal.SIGKILL)
    while stat(pid)[:1] not in ([], ["Z"]):
        time.sleep(0.01)


class Workers:
    """The workers of one hasher: the new children of this process."""

    def __init__(self) -> None:
        self._before = children(os.getpid())

    def pids(self) -> set[int]:
        return children(os.getpid()) - self._before

    def running(self) -> bool:
        return any(stat(pid)[:1] == ["R"] and cpu_seconds(pid) > 0.2 for pid in self.pids())


@asynccontextmanager
async def started(
    workers: int = 1, rounds: int = 4, longest_wait: float = 5.0
) -> AsyncIterator[tuple[PinHasher, Workers]]:
    """A running hasher, which must leave no process at the end of the test."""
    processes = Workers()
    hasher = PinHasher(workers=workers, rounds=rounds, longest_wait=longest_wait)
    await hasher.start()
    try:
        yield hasher, processes
    finally:
        await hasher.stop()
    assert processes.pids() == set()


async def verify(hasher: PinHasher, secret: str, hashed: str | None) -> bool:
    with hasher.admit() as turn:
        return await turn.verify(secret, hashed)


async def test_a_hash_verifies_its_own_secret_only() -> None:
    async with started() as (hasher, _):
        with hasher.admit() as turn:
            hashed = await turn.hash(PIN)
            assert hashed.startswith("$2b$04$")
            assert await turn.verify(PIN, hashed) is True
            assert await turn.verify("4712", hashed) is False
        assert (hasher.hashed, hasher.waiting, hasher.restarts) == (3, 0, 0)


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
async def test_hashes_with_other_prefixes_and_costs_verify(prefix: str) -> None:
    older = bcrypt.hashpw(PIN.encode(), bcrypt.gensalt(6)).decode().replace("$2b$", prefix)
    async with started() as (hasher, _):
        assert await verify(hasher, PIN, older) is True
        assert await verify(hasher, "4712", older) is False


UNUSABLE = [
    None,
    "",
    PIN,
    "$2b$04$",
    FAST[:-1],
    FAST + ".",
    FAST + "\n",
    "\x00" + FAST,
    FAST[:40] + "\x00" + FAST[41:],
    FAST.replace("$04$", "$4$"),
    FAST.replace("$04$", "$03$"),
    FAST.replace("$04$", "$31$"),
    FAST.replace("$04$", "$٠٤$"),
    FAST.replace("$2b$", "$2c$"),
    FAST.replace(SALT, SALT[:-1] + "A"),
    FAST.replace(SALT, "!" * 22),
    FAST[:-1] + "é",
    "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g",
]


async def test_a_malformed_hash_never_matches_and_never_raises() -> None:
    async with started() as (hasher, _):
        for hashed in UNUSABLE:
            assert await verify(hasher, PIN, hashed) is False, hashed
        assert hasher.hashed == len(UNUSABLE)


async def test_a_malformed_hash_or_long_secret_costs_as_much_as_a_wrong_secret() -> None:
    async with started(rounds=10) as (hasher, processes):
        (worker,) = processes.pids()

        async def cost(secret: str, hashed: str | None) -> float:
            costs = []
            for _ in range(3):  # a busy core can take twice as long
                before = cpu_seconds(worker)
                assert await verify(hasher, secret, hashed) is False
                costs.append(cpu_seconds(worker) - before)
            return min(costs)

        wrong = await cost("4712", BUSY)
        for secret, hashed in [(PIN, None), (PIN, "malformed"), ("9" * 73, BUSY)]:
            assert await cost(secret, hashed) > wrong / 2


async def test_a_secret_is_never_cut_at_72_bytes() -> None:
    limit = "é" * 36
    async with started() as (hasher, _):
        with hasher.admit() as turn:
            hashed = await turn.hash(limit)
            assert await turn.verify(limit, hashed) is True
            assert await turn.verify(limit + "1", hashed) is False
            with pytest.raises(ValueError, match="at most 72 bytes") as error:
                await turn.hash(limit + "1")
    assert "é" not in "".join(traceback.format_exception(error.value))


async def test_a_secret_with_a_lone_surrogate_is_wrong() -> None:
    hashed = bcrypt.hashpw(b"?", bcrypt.gensalt(4)).decode()
    async with started() as (hasher, _):
        assert await verify(hasher, "\ud800", hashed) is False


async def test_workers_have_the_lowest_priority() -> None:
    async with started(workers=2) as (_, processes):
        pids = processes.pids()
        assert len(pids) == 2
        await eventually(lambda: all(has_lowest_priority(pid) for pid in pids))


def has_lowest_priority(pid: int) -> bool:
    """Whether niceness and autogroup, if the kernel has them, give the lowest priority."""
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists() and not (os.getsid(pid) == pid and group.read_text().endswith("nice 19\n")):
        return False
    return os.getpriority(os.PRIO_PROCESS, pid) == 19


async def test_ctrl_c_does_not_end_a_worker() -> None:
    async with started() as (hasher, processes):
        (worker,) = processes.pids()
        assert os.getpgid(worker) != os.getpgid(0)
        os.kill(worker, signal.SIGINT)
        assert await verify(hasher, PIN, FAST) is True
        assert processes.pids() == {worker}


async def test_the_event_loop_runs_during_a_hash() -> None:
    async with started(rounds=12) as (hasher, _):
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticker = asyncio.create_task(tick())
        with hasher.admit() as turn:
            await turn.hash(PIN)
        ticker.cancel()
        assert ticks > 10


async def test_a_worker_killed_under_load_loses_no_hash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with started(workers=2) as (hasher, processes):
        first = processes.pids()
        secrets = [PIN, "4712"] * 10
        answers = asyncio.gather(*(verify(hasher, secret, BUSY) for secret in secrets))
        await eventually(lambda: hasher.hashed)
        os.kill(min(first), signal.SIGKILL)
        assert await answers == [True, False] * 10
        assert hasher.restarts == 1
        assert hasher.waiting == 0
        assert min(first) not in processes.pids()
    records = [record for record in caplog.records if record.name == "viewing_time.pin"]
    assert [record.levelno for record in records] == [logging.WARNING]


async def test_an_idle_worker_that_was_killed_is_replaced_at_the_next_turn() -> None:
    async with started() as (hasher, processes):
        for restarts in (1, 2):
            (worker,) = processes.pids()
            os.kill(worker, signal.SIGKILL)
            await eventually(lambda: not processes.pids())
            assert await verify(hasher, PIN, FAST) is True
            assert hasher.restarts == restarts


def test_an_idle_worker_that_was_killed_is_replaced_on_uvloop_too() -> None:
    uvloop.run(test_an_idle_worker_that_was_killed_is_replaced_at_the_next_turn())


def test_a_worker_that_ends_before_it_is_written_to_leaves_no_unread_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lose_a_worker() -> None:
        processes, worker = Workers(), Worker()
        await worker.start()
        (pid,) = processes.pids()
        kill_and_wait(pid)
        with pytest.raises(EOFError):
            await worker.hash(PIN.encode(), SALT.encode())
        await worker.stop()

    asyncio.run(lose_a_worker())
    gc.collect()
    assert not [line for line in caplog.messages if "never retrieved" in line]


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere"])
async def test_a_worker_that_cannot_be_replaced_is_an_overload(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started() as (hasher, processes):
        with monkeypatch.context() as broken:
            broken.setattr(pin_hasher, "COMMAND", [program])
            (worker,) = processes.pids()
            os.kill(worker, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(Overloaded):
                    await verify(hasher, PIN, FAST)
        assert await verify(hasher, PIN, FAST) is True


async def test_a_late_answer_is_not_taken_for_that_of_the_next_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with started() as (hasher, _):
        with monkeypatch.context() as slow:
            slow.setattr(pin_hasher, "MAX_SECONDS", 0.001)
            with pytest.raises(Overloaded):
                await verify(hasher, PIN, BUSY)
        assert await verify(hasher, PIN, FAST) is True
        with hasher.admit() as turn:
            assert bcrypt.checkpw(PIN.encode(), (await turn.hash(PIN)).encode())


async def test_a_second_lost_worker_fails_the_request_and_the_next_succeeds() -> None:
    async with started() as (hasher, processes):
        lost = asyncio.create_task(verify(hasher, "secret-4711", ENDLESS))
        for _ in range(2):
            await eventually(processes.running)
            (worker,) = processes.pids()
            os.kill(worker, signal.SIGKILL)
            await eventually(processes.pids, until={worker}.isdisjoint)
        with pytest.raises(Overloaded) as error:
            await lost
        assert "secret-4711" not in "".join(traceback.format_exception(error.value))
        assert hasher.restarts == 2
        assert hasher.waiting == 0
        assert await verify(hasher, PIN, FAST) is True


async def test_a_full_queue_admits_no_turn_until_one_ends() -> None:
    async with started(longest_wait=0) as (hasher, _):
        with hasher.admit():
            with pytest.raises(Overloaded) as refusal, hasher.admit():
                pytest.fail("admitted to a full queue")
            assert refusal.value.retry_after >= 1
            assert hasher.waiting == 1
        with pytest.raises(KeyError), hasher.admit():
            raise KeyError
        assert hasher.waiting == 0
        assert await verify(hasher, PIN, FAST) is True


def room(hasher: PinHasher) -> int:
    """The number of turns that are admitted at once."""
    with ExitStack() as places:
        while True:
            try:
                places.enter_context(hasher.admit())
            except Overloaded:
                return hasher.waiting


async def test_queue_is_shorter_if_hashes_are_slower() -> None:
    async def rooms(rounds: int) -> int:
        async with started(rounds=rounds, longest_wait=0.1) as (hasher, _):
            return room(hasher)

    assert 1 <= await rooms(10) < await rooms(4)


async def test_a_worker_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(longest_wait=0.1) as (hasher, processes):
        before = room(hasher)
        (frozen,) = processes.pids()
        start = hasher.workers[0].start

        async def start_patiently() -> None:
            monkeypatch.setattr(pin_hasher, "MAX_SECONDS", 60.0)
            await start()

        monkeypatch.setattr(pin_hasher, "MAX_SECONDS", 1.0)
        monkeypatch.setattr(hasher.workers[0], "start", start_patiently)
        os.kill(frozen, signal.SIGSTOP)
        assert await verify(hasher, PIN, FAST) is True
        assert hasher.restarts == 1
        await eventually(lambda: frozen not in processes.pids())
        assert room(hasher) > before / 2


async def test_a_cancelled_request_leaves_the_queue_and_is_not_hashed() -> None:
    async with started() as (hasher, _):
        ahead = asyncio.create_task(verify(hasher, PIN, BUSY))
        cancelled = asyncio.create_task(verify(hasher, PIN, FAST))
        await asyncio.sleep(0)
        assert hasher.waiting == 2
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert hasher.waiting == 1
        assert await ahead is True
        assert await verify(hasher, PIN, FAST) is True
        assert hasher.hashed == 2


async def test_a_request_cancelled_during_its_hash_leaves_the_worker_usable() -> None:
    async with started() as (hasher, processes):
        cancelled = asyncio.create_task(verify(hasher, PIN, BUSY))
        (worker,) = processes.pids()
        at_rest = cpu_seconds(worker)
        await eventually(lambda: cpu_seconds(worker) > at_rest + 0.002)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert hasher.waiting == 0
        assert await verify(hasher, PIN, FAST) is True
        assert hasher.hashed == 2
        assert processes.pids() == {worker}


async def test_the_second_hash_of_a_turn_does_not_queue_again() -> None:
    async with started() as (hasher, _):
        answered = []

        async def ask(name: str, hashes: int) -> None:
            with hasher.admit() as turn:
                for number in range(hashes):
                    await turn.verify(PIN, FAST)
                    answered.append(f"{name}{number}")

        await asyncio.gather(ask("a", 2), ask("b", 1), ask("c", 1), ask("d", 1))
        assert answered.index("a1") < answered.index("c0") < answered.index("d0")


async def test_stop_cancels_running_and_waiting_hashes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with started(longest_wait=60) as (hasher, processes):
        requests = [asyncio.create_task(verify(hasher, PIN, ENDLESS)) for _ in range(3)]
        await eventually(processes.running)
        with hasher.admit() as turn:
            await hasher.stop()
            with pytest.raises(Overloaded):
                await turn.verify(PIN, FAST)
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3
        assert (hasher.hashed, hasher.waiting) == (0, 0)
    del hasher, turn, requests, answers
    gc.collect()
    assert caplog.messages == []


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_stop_ends_killed_and_stopped_workers(blow: signal.Signals) -> None:
    async with started(workers=2) as (_, processes):
        os.kill(min(processes.pids()), blow)


async def test_stop_in_the_middle_of_a_restart_leaves_no_process() -> None:
    async with started(workers=2) as (hasher, processes):
        os.kill(min(processes.pids()), signal.SIGKILL)
        requests = asyncio.create_task(verify(hasher, PIN, ENDLESS))
        await eventually(lambda: hasher.restarts)
        await hasher.stop()
        with pytest.raises(asyncio.CancelledError):
            await requests


async def test_stop_without_start_does_nothing() -> None:
    await PinHasher(workers=1, rounds=4).stop()


async def test_a_start_that_fails_leaves_no_process() -> None:
    processes = Workers()
    with pytest.raises(ValueError, match="rounds"):
        await PinHasher(workers=1, rounds=3).start()
    assert processes.pids() == set()


SERVER = """
import asyncio, socket, uvloop
from service.credentials.pin_hasher import PinHasher, Worker
from tests.conftest import ROOT, served
from tests.eventually import eventually

async def serve():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        await PinHasher(workers=1, rounds=4).start()
        print("started", flush=True)
        await asyncio.sleep(60)

uvloop.run(serve())
"""


async def in_a_server(tmp_path: Path, examine: Callable[[int], Awaitable[None]]) -> None:
    """Runs `examine` with the pid of a script that has a listener and has started a worker."""
    script = tmp_path / "serve.py"
    script.write_text(SERVER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert await asyncio.to_thread(server.stdout.readline) == b"started\n"
            await examine(server.pid)
        finally:
            server.kill()


async def test_a_worker_has_no_files_or_modules_of_the_server(tmp_path: Path) -> None:
    async def examine(server: int) -> None:
        (worker,) = children(server)
        assert loaded(server, "uvloop")
        assert not loaded(worker, "uvloop")
        assert sorted(files(worker)) == [0, 1, 2]

    await in_a_server(tmp_path, examine)


async def test_a_worker_dies_with_its_parent(tmp_path: Path) -> None:
    async def examine(server: int) -> None:
        (worker,) = children(server)
        os.kill(server, signal.SIGKILL)
        await eventually(lambda: stat(worker)[:1] in ([], ["Z"]))

    await in_a_server(tmp_path, examine)


async def test_no_child_of_a_service_has_its_secrets(database: str) -> None:
    secrets = {"PGPASSWORD": "a-password-1", "AWS_SECRET_ACCESS_KEY": "a-password-2"}
    async with served(database, **secrets, PIN_WORKERS="2") as service:
        server = service.process.pid
        values = [*secrets.values(), service.jwt_secret, database]
        workers = children(server)
        assert len(workers) == 2
        for child in workers:
            for shown in ("environ", "cmdline"):
                text = Path(f"/proc/{child}/{shown}").read_text()
                assert not [value for value in values if value in text]
            assert "PATH=" in Path(f"/proc/{child}/environ").read_text()


async def test_a_replaced_worker_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "a-password-3")
    async with started() as (hasher, processes):
        (first,) = processes.pids()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: not processes.pids())
        assert await verify(hasher, PIN, FAST) is True
        (second,) = processes.pids()
        assert "a-password-3" not in Path(f"/proc/{second}/environ").read_text()
