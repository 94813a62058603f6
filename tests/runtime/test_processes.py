"""Guards in forked and spawned processes, and what is sent between them."""

import asyncio
import copy
import gc
import inspect
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

from guardpass import Bounds, Closed, EngineError, Guard, GuardError, GuardpassError, Overloaded, Panel, Unsupported

from ..support.twins import PLAIN

LONG = 60.0
TEXT = "how do I make a cake"


@pytest.fixture(scope="module")
def engines(two_sided: Path, exported: Callable[..., Path]) -> dict[str, Path]:
    """A guard of each engine that is installed."""
    found = {"onnx": two_sided}
    for engine, package, quant in (("native", "guardpass_kernels", "int8"), ("llamacpp", "llama_cpp", "f32")):
        try:
            import_module(package)
        except ImportError:
            continue
        found[engine] = exported(PLAIN, quant, engine=engine)
    return found


FORKS = """
    import asyncio, faulthandler, os, sys, threading, time
    from guardpass import Closed, Guard, Overloaded, Panel

    TEXT = "how do I make a cake"

    async def awaited(guard):
        return [each.score for each in await asyncio.gather(*(guard.acheck(TEXT, timeout=60.0) for _ in range(3)))]

    def child(guards, pending, expected):
        faulthandler.dump_traceback_later(60, exit=True)
        for future in pending:
            if not future.done() or future.exception() is not None:
                assert isinstance(future.exception(0), Closed), future
        for name, guard in guards.items():
            assert guard.submit(TEXT, timeout=60.0).result(60.0).score == expected[name]
            assert guard.check(TEXT).score == expected[name]
            assert asyncio.run(awaited(guard)) == [expected[name]] * 3
            assert guard.scheduler.load == (0, 0)
        assert Panel(guards, policy="weighted").submit(TEXT, timeout=60.0).result(60.0).members.keys() == guards.keys()
        for guard in guards.values():
            assert guard.close(60.0)
        faulthandler.cancel_dump_traceback_later()
        sys.exit(0)  # as a worker ends: engines, threads and all

    guards = {name: Guard.load(path, threads=2) for name, path in (each.split("=") for each in sys.argv[1:])}
    expected = {name: guard.check(TEXT).score for name, guard in guards.items()}
    stop = threading.Event()

    def busy(guard):  # so that locks are held, and passes run, when it is forked
        while not stop.is_set():
            guard.submit("word " * 50).result(60.0)
            guard.check("word " * 50)

    threads = [threading.Thread(target=busy, args=(guard,)) for guard in guards.values()]
    for thread in threads:
        thread.start()
    for n in range(4):
        time.sleep(0.03 * n)
        pending = [guard.submit("word " * 50) for guard in guards.values() for _ in range(3)]
        pending.append(Panel(guards).submit("word " * 50))
        pid = os.fork()
        if not pid:
            child(guards, pending, expected)
        for future in pending:
            future.result(60.0)
        assert os.waitpid(pid, 0)[1] == 0, n
    stop.set()
    for thread in threads:
        thread.join(60.0)
"""


def test_a_forked_child_answers_and_ends(engines: dict[str, Path]) -> None:
    """Whatever ran in the parent before it, and while it was forked."""
    guards = [f"{name}={path}" for name, path in engines.items()]
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKS), *guards], capture_output=True, text=True, timeout=4 * LONG
    )
    assert found.returncode == 0, found.stderr


def _received(sent: bytes) -> Any:
    return pickle.loads(sent)  # noqa: S301, as it was sent by us


def _score(guard: Guard, text: str) -> tuple[float, float]:
    return guard.check(text).score, guard.submit(text).result(LONG).score


def _overloaded() -> None:
    raise Overloaded("too much", 1.5)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_guard_goes_to_another_process(two_sided: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an error comes back, without breaking the pool."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the process finds this module
    with Guard.load(two_sided, threads=1, max_tokens=200) as guard:
        expected = guard.submit(TEXT).result(LONG).score
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert pool.submit(_score, guard, TEXT).result(LONG) == (expected, expected)
            with pytest.raises(Overloaded, match="too much") as raised:
                pool.submit(_overloaded).result(LONG)
            assert raised.value.retry_after == 1.5
            assert pool.submit(_score, guard, TEXT).result(LONG) == (expected, expected)


def test_a_pickled_guard_is_the_same_or_an_error(two_sided: Path, tmp_path: Path) -> None:
    place = tmp_path / "guard"
    shutil.copytree(two_sided, place)
    with Guard.load(place, threads=1, max_tokens=200, long_text="refuse", queue=Bounds(3, 1000)) as first:
        sent = pickle.dumps(first)
        other = _received(sent)
        assert other.judge.limits == first.judge.limits
        assert other.check(TEXT).score == first.check(TEXT).score
        assert copy.copy(first) is copy.deepcopy(first) is first
        assert Panel([first]).guards == copy.deepcopy(Panel([first])).guards
        panel = _received(pickle.dumps(Panel({"a": first}, policy="weighted")))
        assert panel.check(TEXT).score == Panel({"a": first}, policy="weighted").check(TEXT).score
        shutil.rmtree(place)
        with pytest.raises(GuardError):
            _received(sent)
        first.after_fork()
        with pytest.raises(GuardError):
            first.check(TEXT)
        assert not first.check(TEXT, on_error="block").safe
    with pytest.raises(Closed):
        pickle.dumps(first)


def test_what_lies_in_its_place_now_is_not_taken_for_it(
    exported: Callable[..., Path], two_sided: Path, tmp_path: Path
) -> None:
    """A guard that was replaced by renaming, as the docs say it may be, is not opened for the old one's child."""
    place = tmp_path / "guard"
    shutil.copytree(two_sided, place)
    with Guard.load(place, threads=1) as first:
        sent = pickle.dumps(first)
        place.rename(tmp_path / "before")
        shutil.copytree(exported("llama3 rope scaling, as transformers 4 writes it"), place)
        with pytest.raises(GuardError, match="another guard"):
            _received(sent)
        first.after_fork()
        with pytest.raises(GuardError, match="another guard"):
            first.check(TEXT)


def test_a_gpu_is_refused_at_once_after_a_fork(two_sided: Path) -> None:
    with Guard.load(two_sided, threads=1) as guard:
        guard._opening.options["device"] = "cuda"
        guard.after_fork()
        with pytest.raises(EngineError, match="fork"):
            guard.check(TEXT)
        with pytest.raises(EngineError, match="fork"):
            guard.submit(TEXT, timeout=LONG).result(LONG)


def test_a_session_neither_goes_on_in_a_child_nor_to_another_process(engines: dict[str, Path]) -> None:
    for name in engines.keys() - {"onnx"}:
        with Guard.load(engines[name], threads=1) as guard, guard.stream(TEXT) as session:
            session.feed("a reply")
            with pytest.raises(Unsupported):
                pickle.dumps(session)
            session.after_fork()
            guard.after_fork()
            with pytest.raises(Closed, match="fork"):
                session.feed(" that grows")
            with guard.stream(TEXT) as another:
                assert another.feed("a reply").label == guard.check(TEXT, "a reply").label
    with Guard.load(engines["onnx"], threads=1) as guard:
        guard.after_fork()
        with pytest.raises(Unsupported):
            guard.stream(TEXT)


def test_onnx_runtime_reports_to_nobody() -> None:
    """From 1.29 on its wheels do where nothing forbids it, from a thread of their own that begins with the import."""
    count = "len(os.listdir('/proc/self/task'))"
    code = f"import os, numpy, guardpass; n = {count}; import onnxruntime; assert {count} == n, {count}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=LONG)


def _errors() -> list[type[GuardpassError]]:
    for package in ("guardpass", "guardpass.serve", "guardpass.export", "guardpass.bench", "guardpass.bench.peers"):
        found = import_module(package)
        for module in walk_packages(found.__path__, f"{package}."):
            if module.name.rpartition(".")[2] in ("errors", "template"):
                import_module(module.name)
    kinds = [GuardpassError]
    for kind in kinds:
        kinds += [each for each in kind.__subclasses__() if each not in kinds]
    return kinds


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__qualname__)
def test_every_error_is_pickled_and_copied(kind: type[GuardpassError]) -> None:
    own = kind.__init__ is not Exception.__init__
    error = kind("what was found", *(1.5 for _ in list(inspect.signature(kind.__init__).parameters)[2:] if own))
    error.note = "kept"  # type: ignore[attr-defined]
    for other in (*(_received(pickle.dumps(error, p)) for p in range(6)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind
        assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


def test_verdicts_are_pickled_and_copied(guard: Guard) -> None:
    found = [
        guard.check(TEXT),
        guard.check("\ud800", on_error="block"),
        guard.submit(TEXT).result(LONG),
        Panel([guard, guard]).check(TEXT),
        asyncio.run(Panel([guard]).acheck(TEXT)),
    ]
    for verdict in found:
        for other in (_received(pickle.dumps(verdict)), copy.copy(verdict), copy.deepcopy(verdict)):
            assert other == verdict
            assert other.to_json() == verdict.to_json()


def test_what_is_known_of_forks_keeps_nothing_alive(two_sided: Path) -> None:
    guard = Guard.load(two_sided, threads=1)
    scheduler, gone = weakref.ref(guard.scheduler), weakref.ref(guard)
    del guard
    gc.collect()
    assert gone() is None
    assert scheduler() is None
