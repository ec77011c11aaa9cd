from __future__ import annotations

import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshd.agent import lock, processes
from meshd.agent.log import Log
from meshd.agent.pool import Pool, PoolSettings
from meshd.agent.sockets import Want, open_socket
from meshkit.names import MeshSettings
from meshkit.snapshot.codec import content_hash, encode
from meshkit.snapshot.types import HostConfig, ListenerSpec, Snapshot

PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def snapshot(revision: str, *ports: int, host: str = "vm1") -> tuple[Snapshot, list[Want]]:
    specs = tuple(ListenerSpec(f"plain-{p}", "plain", "127.0.0.1", p) for p in ports)
    blob = encode(HostConfig(host, MeshSettings(), specs, ()))
    ident = content_hash(blob)
    wants = [Want(s.id, s.address, s.port) for s in specs]
    return Snapshot(revision, ident, {}, {ident: blob}), wants


@asynccontextmanager
async def pool_in(runtime: Path, workers: int = 2, *, owned: bool = False) -> AsyncIterator[Pool]:
    settings = PoolSettings(runtime, workers, owned=owned, program=PROGRAM)
    pool = Pool(settings, Log(), lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    """Ends every worker that a test left running, by the pid files."""
    yield tmp_path
    for file in tmp_path.glob("worker.*.pid"):
        os.kill(int(file.read_text().split()[0]), signal.SIGKILL)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


def ready(pool: Pool, revision: str) -> Callable[[], bool]:
    return lambda: all(s.phase == "ready" and s.revision == revision for s in pool.states())


async def ask(port: int) -> str:
    """``<index> <pid>`` of the worker that accepted."""
    with trio.fail_after(20):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            return (await stream.receive_some(100)).decode().strip()


async def asked(port: int, times: int = 24) -> Counter[str]:
    return Counter([await ask(port) for _ in range(times)])


async def test_workers_start_serve_and_answer_pings(runtime: Path) -> None:
    port = free_port()
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("1", port))
        await until(ready(pool, "1"))
        assert await pool.ping(2.0) == []
        served = await asked(port)
        assert {line.split()[0] for line in served} == {"0", "1"}
        assert [s.version for s in pool.states()] == ["fake", "fake"]


async def test_a_killed_worker_is_replaced_and_its_queue_is_served(runtime: Path) -> None:
    port = free_port()
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("1", port))
        await until(ready(pool, "1"))
        victim = pool.states()[1].pid
        os.kill(victim, signal.SIGKILL)
        # No pause: connections queued on the dead worker's socket must be answered as well.
        served = await asked(port)
        assert sum(served.values()) == 24
        await until(ready(pool, "1"), 3.0)
        assert pool.states()[1].pid != victim
        assert {line.split()[0] for line in await asked(port)} == {"0", "1"}
        assert pool.supervisor.slots[1].lent_to is None


async def test_a_new_agent_adopts_the_same_processes_and_sockets(runtime: Path) -> None:
    port = free_port()
    async with pool_in(runtime, 3) as pool:
        pool.publish(*snapshot("1", port))
        await until(ready(pool, "1"))
        before = [s.pid for s in pool.states()]
    assert sum((await asked(port)).values()) == 24  # nobody is there but the workers
    async with pool_in(runtime, 3) as pool:
        pool.publish(*snapshot("2", port))
        await until(ready(pool, "2"))
        assert [s.pid for s in pool.states()] == before
        assert pool.sockets.faults == {}
        assert all(pool.sockets.get(f"plain-{port}", i) for i in range(3))
        served = await asked(port, 40)
        assert {int(line.split()[1]) for line in served} == set(before)


async def test_after_adoption_only_the_missing_worker_is_started(runtime: Path) -> None:
    port = free_port()
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("1", port))
        await until(ready(pool, "1"))
        before = [s.pid for s in pool.states()]
    os.kill(before[0], signal.SIGKILL)
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("2", port))
        await until(ready(pool, "2"))
        pids = [s.pid for s in pool.states()]
        assert pids[1] == before[1]
        assert pids[0] != before[0]
        assert sum((await asked(port)).values()) == 24


async def test_a_second_worker_of_an_index_is_turned_away(runtime: Path) -> None:
    async with pool_in(runtime, 1) as pool:
        pool.publish(*snapshot("1"))
        await until(ready(pool, "1"))
        before = pool.states()[0].pid
        newcomer = await trio.run_process(processes.Command(runtime, PROGRAM).argv(0), check=False)
        assert newcomer.returncode == 0  # told to stop
        assert pool.states()[0].pid == before


async def test_listeners_come_and_go_with_the_snapshot(runtime: Path) -> None:
    first, second = free_port(), free_port()
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("1", first))
        await until(ready(pool, "1"))
        pool.publish(*snapshot("2", second))
        await until(ready(pool, "2"))
        await ask(second)
        await until(lambda: pool.sockets.ids() == [f"plain-{second}"])
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", first)


async def test_a_taken_address_is_said_and_opened_when_it_is_free(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshd.agent.pool.REOPEN_EVERY", 0.1)
    port = free_port()
    other = open_socket("127.0.0.1", port)
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("1", port))
        await until(ready(pool, "1"))
        assert "Address already in use" in pool.sockets.faults[f"plain-{port}"]
        other.close()
        await until(lambda: not pool.sockets.faults)
        await ask(port)


async def test_a_refusal_is_reported_and_the_old_revision_stays(runtime: Path) -> None:
    port = free_port()
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("1", port))
        await until(ready(pool, "1"))
        pool.publish(*snapshot("2", port, host="refuse-me"))
        await until(lambda: all(s.refused for s in pool.states()))
        assert pool.states()[0].refused == {"2": "asked to refuse"}
        assert pool.states()[0].revision == "1"
        await ask(port)
        pool.publish(*snapshot("3", port))
        await until(ready(pool, "3"))
        assert pool.states()[0].refused == {}


async def test_owned_workers_end_with_the_agent(runtime: Path) -> None:
    async with pool_in(runtime, owned=True) as pool:
        pool.publish(*snapshot("1"))
        await until(ready(pool, "1"))
        pids = [s.pid for s in pool.states()]
        await pool.drain(0.2)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_one_agent_a_runtime_folder(tmp_path: Path) -> None:
    held = lock.take(tmp_path / "agent.lock")
    try:
        with pytest.raises(lock.Locked, match=f"process {os.getpid()}"):
            lock.take(tmp_path / "agent.lock")
    finally:
        os.close(held)
    os.close(lock.take(tmp_path / "agent.lock"))


def test_a_stranger_with_the_pid_of_a_worker_is_not_adopted(tmp_path: Path) -> None:
    command = processes.Command(tmp_path, PROGRAM)
    own = f"{os.getpid()} {processes.start_time(os.getpid())}\n"
    command.pid_file(0).write_text(own)
    assert processes.find(command, 0) is None
    command.pid_file(0).write_text("not a pid")
    assert processes.find(command, 0) is None


async def test_a_newer_map_may_cross_a_question_about_the_one_before(runtime: Path) -> None:
    """Neither the agent nor a worker's connection ends by it."""
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("r0", free_port()))
        await until(ready(pool, "r0"))
        sessions = dict(pool._sessions)
        for number in range(1, 301):
            pool.publish(*snapshot(f"r{number}", host=f"vm{number}"))
            await trio.sleep(number % 7 * 0.0002)
        await until(ready(pool, "r300"))
        assert pool._sessions == sessions


async def test_a_broken_protocol_costs_a_connection_and_not_the_agent(runtime: Path) -> None:
    async with pool_in(runtime) as pool:
        pool.publish(*snapshot("r1", free_port()))
        await until(ready(pool, "r1"))
        session = pool._sessions[0]
        # The workers ask for a blob that nobody has: an error inside their sessions.
        pool.publish(Snapshot("r2", "nobody-has-it", {}, {}), [])
        await until(lambda: pool._sessions.get(0) is not session)
        pool.publish(*snapshot("r3", free_port()))
        await until(ready(pool, "r3"))
