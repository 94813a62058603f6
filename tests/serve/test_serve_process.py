"""The server's processes: signals, workers that die, files that change, load, clients that come and go."""

import asyncio
import http.client
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guardpass import Closed, Guard
from guardpass.bench.service.client import Connection
from guardpass.bench.service.load import closed
from guardpass.bench.service.process import Served, served
from guardpass.bench.service.scenarios import churn, overload
from guardpass.serve.host import Host
from guardpass.serve.settings import Settings

from ..support.helpers import texts

LONG = 60.0


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _ready(server: Served) -> int:
    try:
        return server.ask("/ready").status
    except OSError:
        return 0


def _load(server: Served, seconds: float) -> tuple[threading.Thread, list[Any]]:
    """Four clients, in a thread."""
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.extend(asyncio.run(closed(server.port, texts(20), clients=4, seconds=seconds)))
    )
    thread.start()
    return thread, found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_drains_under_load(two_sided: Path, workers: str) -> None:
    with served([two_sided], "--workers", workers, "--notice", "1.5", "--threads", "1") as server:
        _until(lambda: sum(line["event"] == "ready" for line in server.log()) == int(workers))
        thread, samples = _load(server, 6.0)
        _until(lambda: len(server.log()) > 20)
        server.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        # First /ready says no, while requests are still answered.
        _until(lambda: _ready(server) == 503 or server.process.poll() is not None)
        assert server.process.poll() is None
        assert server.ask("/v1/check", {"text": "during the notice"}).status == 200
        assert server.process.wait(LONG) == 0
        assert time.monotonic() - told < 31.5
        thread.join(LONG)
        statuses = {sample.status for sample in samples}
        assert statuses <= {200, 503, 0}  # 0: refused connections, after the port was closed
        answered = {line["id"] for line in server.log() if line["event"] == "request" and line["status"] == 200}
        seen = {sample.answer.headers["x-request-id"] for sample in samples if sample.status == 200}
        assert seen <= answered
        # Whatever was accepted was answered: no connection broke while the port was open.
        broke = [sample for sample in samples if sample.status == 0 and sample.answer is None]
        stopped = max(sample.answered for sample in samples if sample.status in (200, 503))
        assert all(sample.answered >= stopped - 1.0 for sample in broke)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_at_once(two_sided: Path, workers: str) -> None:
    with served([two_sided], "--workers", workers, "--notice", "1000", "--threads", "1") as server:
        server.process.send_signal(signal.SIGTERM)
        _until(lambda: _ready(server) == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LONG) == 128 + signal.SIGTERM


def test_a_killed_worker_is_replaced_and_its_clients_see_an_error(two_sided: Path) -> None:
    with served([two_sided], "--workers", "2", "--threads", "1") as server:
        _until(lambda: sum(line["event"] == "ready" for line in server.log()) == 2)
        first = server.workers()
        thread, samples = _load(server, 8.0)
        _until(lambda: sum(line["event"] == "request" for line in server.log()) > 20)
        subprocess.run(["kill", "-9", str(first[0])], check=True)
        thread.join(LONG)
        # Every request was answered, or its client saw its connection break; none waits for ever.
        assert {sample.status for sample in samples} <= {200, 0, 429}
        assert sum(sample.status == 0 for sample in samples) <= 4  # those of the worker that died, at most
        _until(lambda: len(server.workers()) == 2)
        _until(lambda: sum(line["event"] == "ready" for line in server.log()) == 3)
        assert first[0] not in server.workers()
        for _ in range(10):
            assert server.ask("/v1/check", {"text": "after"}).status == 200
        assert server.ask("/metrics").body.count(b"# TYPE guardpass_requests_total") == 1
        assert server.stop() == 0


def test_ready_counts_once_however_many_workers(two_sided: Path) -> None:
    """It is a no until every worker has its guards, also those no scrape has reached yet, and of those that live."""
    with served([two_sided], "--workers", "2", "--threads", "1", "--notice", "3") as server:

        def gauge() -> str:
            lines = server.ask("/metrics").body.decode().splitlines()
            return next(line for line in lines if line.startswith("guardpass_ready ")).split()[1]

        _until(lambda: sum(line["event"] == "ready" for line in server.log()) == 2)
        _until(lambda: gauge() == "1.0")
        first, second = server.workers()
        subprocess.run(["kill", "-9", str(first)], check=True)
        _until(lambda: sum(line["event"] == "ready" for line in server.log()) == 3)
        _until(lambda: gauge() == "1.0")
        subprocess.run(["kill", "-TERM", str(second)], check=True)  # it drains, the other does not
        _until(lambda: gauge() == "0.0")


def test_workers_end_with_their_supervisor(two_sided: Path) -> None:
    with served([two_sided], "--workers", "2", "--threads", "1", "--notice", "0") as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        _until(lambda: not any(_alive(pid) for pid in workers))


def test_a_signal_while_workers_start_is_no_failure(two_sided: Path) -> None:
    with served([two_sided], "--workers", "2", ready=False) as server:
        _until(lambda: sum(line["event"] == "worker started" for line in server.log()) == 2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LONG) == 0
        assert not any(line["event"] == "ready" for line in server.log())


def test_who_is_told_to_stop_while_it_loads_is_closed(two_sided: Path) -> None:
    host = Host(Settings((str(two_sided),)), state="draining")
    with pytest.raises(Closed, match="shutting down"):
        host.find(None)
    host.load()
    assert host.find(None)[1] is host.guards[host.find(None)[0]]
    assert host.close(LONG)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_corrupt_guard_never_loads(two_sided: Path, tmp_path: Path, workers: str) -> None:
    guard = tmp_path / "guard"
    shutil.copytree(two_sided, guard)
    path = guard / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with served([guard], "--workers", workers, ready=False) as server:
        assert server.process.wait(LONG) == 3
        assert "sha256" in server.log_file.read_text()


def test_a_guard_replaced_by_a_corrupt_one_goes_on(two_sided: Path, tmp_path: Path) -> None:
    """Replaced by renaming, as files should be: what runs is what was loaded, and a reload refuses the new one."""
    guard = tmp_path / "guard"
    shutil.copytree(two_sided, guard)
    with served([guard], "--threads", "1") as server:
        before = server.ask("/v1/check", {"text": "a text"}).json()["verdict"]["score"]
        new = tmp_path / "new"
        shutil.copytree(two_sided, new)
        (new / "model.onnx.data").write_bytes(bytes((new / "model.onnx.data").stat().st_size))
        guard.rename(tmp_path / "old")
        new.rename(guard)
        shutil.rmtree(tmp_path / "old")
        assert server.ask("/v1/check", {"text": "a text"}).json()["verdict"]["score"] == before
        server.process.send_signal(signal.SIGHUP)
        _until(lambda: b'guardpass_reloads_total{outcome="refused"} 1.0' in server.ask("/metrics").body)
        assert server.ask("/v1/check", {"text": "a text"}).json()["verdict"]["score"] == before
        assert server.ask("/ready").status == 200
        shutil.rmtree(guard)
        shutil.copytree(two_sided, guard)
        server.process.send_signal(signal.SIGHUP)
        _until(lambda: b'guardpass_reloads_total{outcome="taken"} 1.0' in server.ask("/metrics").body)
        assert server.ask("/v1/check", {"text": "a text"}).json()["verdict"]["score"] == before
        assert server.stop() == 0


def test_a_guard_overwritten_in_place_fails_closed_or_is_unaffected(two_sided: Path, tmp_path: Path) -> None:
    """ONNX Runtime maps the weights: bytes written into the file would count."""
    for number, options in enumerate(([], ["--in-memory"])):
        guard = tmp_path / str(number)
        shutil.copytree(two_sided, guard)
        with served([guard], "--threads", "1", *options) as server:
            before = server.ask("/v1/check", {"text": "a text"}).json()["verdict"]["score"]
            with (guard / "model.onnx.data").open("r+b") as file:
                file.write(b"\x3c" * (guard / "model.onnx.data").stat().st_size)
            answer = server.ask("/v1/check", {"text": "a text"})
            if options:
                assert answer.json()["verdict"]["score"] == before
            else:
                assert (answer.status, answer.json()["error"]["type"]) == (500, "engine")
                assert "changed" in answer.json()["error"]["message"]


def test_overload_refuses_at_once_and_recovers(two_sided: Path) -> None:
    """The short form of `python -m guardpass.bench.service overload`."""
    long = [" ".join(texts(60, seed=seed)) for seed in range(4)]
    with served([two_sided], "--threads", "1", "--deadline-ms", "4000") as server:
        found = overload(server, long, seconds=6.0, times=5.0, deadline=4.0)
    assert set(found["statuses"]) <= {200, 429, 504}
    assert found["statuses"][200] > 0
    assert found["statuses"][429] > 0
    assert found["statuses"].get(504, 0) <= 0.05 * (found["statuses"][200] + found["statuses"].get(504, 0))
    assert found["accepted_p95_s"] < 2 * 4.0
    assert found["refused_without_retry_after"] == 0
    assert set(found["first_second_after_statuses"]) == {200}
    assert max(found["memory_quarters_mb"]) < 1.5 * found["memory_before_mb"]


def test_clients_that_come_and_go_lose_and_cross_nothing(two_sided: Path) -> None:
    """The short form of `python -m guardpass.bench.service churn`."""
    with Guard.load(two_sided, threads=1) as bare:
        expected = {text: bare.check(text).score for text in {*texts(60, seed=2), "a", "b"}}
    with served([two_sided], "--threads", "1", "--max-queue", "256") as server:
        found = churn(server, expected, requests=600, clients=16)
        assert found.get("CROSSED", 0) == 0
        assert found["right"] > 350
        assert {key for key in found if key.startswith("status")} <= {"status 429"}
        assert found["in_flight_at_the_end"] == 0
        assert server.stop() == 0
        assert not [line for line in server.log() if line["event"] == "unexpected"]


def test_nothing_is_judged_before_the_guards_are_there(two_sided: Path) -> None:
    """The port is open at once: /health says yes, /ready no, and requests get 503."""
    code = (
        "import guardpass.guard as g, time; load = g.Guard.load.__func__\n"
        "g.Guard.load = classmethod(lambda *a, **k: (time.sleep(4), load(*a, **k))[1])\n"
        "import guardpass.cli; guardpass.cli.main()"
    )
    port = _free()
    command = [sys.executable, "-c", code, "serve", str(two_sided), "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    server = Served(port, process, Path("/dev/null"))
    try:
        _until(lambda: _ready(server) == 503)
        assert server.ask("/health").status == 200
        answer = server.ask("/v1/check", {"text": "early"})
        assert (answer.status, answer.json()["error"]["type"]) == (503, "closed")
        assert "retry-after" in answer.headers
        _until(lambda: _ready(server) == 200)
        assert server.ask("/v1/check", {"text": "now"}).status == 200
    finally:
        process.kill()
        process.wait()


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_one_connection_serves_many_requests(two_sided: Path) -> None:
    with served([two_sided], "--threads", "1") as server:

        async def many() -> set[int]:
            connection = Connection(server.port)
            return {(await connection.ask("/v1/check", {"text": f"{n}"})).status for n in range(50)}

        assert asyncio.run(many()) == {200}
        assert asyncio.run(many()) == {200}


def test_a_connection_outlasts_the_pools_of_clients(two_sided: Path) -> None:
    """httpx, and with it openai's client, lets go of an unused connection after 5 s; uvicorn would as well."""
    with served([two_sided], "--threads", "1") as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port)
        for _ in range(2):
            kept.request("GET", "/health")  # raises where the server has closed the connection
            answer = kept.getresponse()
            answer.read()
            assert (answer.status, answer.will_close) == (200, False)
            time.sleep(6)
        kept.close()
