"""The main path: a guard directory in, verdicts out."""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, get_args

from .answer_text import answer_ids
from .describe import describe, labels_of
from .engines.base import Batching, Incremental, run_pass
from .engines.registry import open_engine
from .engines.reopened import reopened
from .errors import Closed, GuardpassError, Unsupported
from .forks import renewed_in_child
from .format.integrity import open_guard
from .format.manifest import Device, Label, Manifest, Mode
from .judge import Judge
from .on_error import OnError, check_on_error, undecided
from .opening import Opening, check_options
from .request import CheckOptions, Normalize, Request, check_normalize, mode_of, pair_of
from .run import Run, run_together
from .scheduling.awaiting import awaited
from .scheduling.queue import Batch, Bounds, check_timing
from .scheduling.scheduler import Scheduler
from .stop import StopToken
from .stream import Session
from .tokenizer import ContentTokenizer
from .verdict import Verdict
from .windows import Limits, LongText

T = TypeVar("T")

# The CPU attention operator holds heads x T x T scores: half a gigabyte for 32 heads at this length.
DEFAULT_MAX_TOKENS = 2048
DEFAULT_MAX_WINDOWS = 16


class Guard:
    """A guard, opened. Share one between threads: `submit` and `acheck` let requests wait for their turn.

    Calls of `check` run where they are made: passes side by side, llama.cpp's in turn, under a lock.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        threads: int | None,
        device: Device | None,
        max_tokens: int | None,
        max_windows: int,
        long_text: LongText,
        normalize: Normalize,
        queue: Bounds,
        in_memory: bool,
        opening: Opening,
    ) -> None:
        """For `Guard.load`, which proves what is passed here."""
        self.manifest = manifest
        longest = max_tokens or min(manifest.context, DEFAULT_MAX_TOKENS)
        limits = Limits(longest, max_windows, long_text)
        self.judge = Judge(manifest, ContentTokenizer.of(directory, manifest), limits, normalize)
        self._open = partial(
            open_engine, directory, manifest, threads=threads, max_tokens=longest, device=device, in_memory=in_memory
        )
        self._engine = self._open()
        self._closed = False
        self._opening = opening
        self.scheduler = Scheduler(manifest.name, queue)
        weakref.finalize(self, self.scheduler.close, 0.0)  # its threads end with the guard
        renewed_in_child(self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: Device | None = None,
        verify: bool = True,
        max_tokens: int | None = None,
        max_windows: int = DEFAULT_MAX_WINDOWS,
        long_text: LongText = "windows",
        normalize: Normalize = "on",
        queue: Bounds | None = None,
        in_memory: bool = False,
    ) -> "Guard":
        """Open the guard directory at `path`. Nothing is downloaded.

        threads: of the engine; None takes the cores this process may use.
        device: "cpu" or "cuda"; None takes what the guard was exported for. A GGUF guard runs on both, an ONNX guard
        exported for "cuda" in fp32 or fp16 on the "cpu" too, any other where it was exported for: nothing is ever run
        elsewhere than asked for.
        verify: hash every file against guard.json first; False takes files over 64 MiB by their size.
        max_tokens: tokens of one pass, prefix and tree included, at most the checkpoint's context (default: that, or
        2048 if less).
        long_text: what to do with text beyond it: judge overlapping "windows" (the worst decides), "refuse",
        or "truncate" (the verdict says so). max_windows: more windows than this are refused.
        normalize: whether a text that is not NFC, or holds invisible characters that no script needs, is also judged in
        its plain form ("on"), or only as it stands ("off"), as the checkpoint's own stack judges it.
        queue: how much may wait of what is submitted.
        in_memory: read the weights, for ONNX at about twice the memory; else they are mapped, and a guard whose file is
        written to while it is open fails from then on (GGUF guards are always read).

        Raises GuardError for a guard that is not intact, InputError for options out of range,
        MissingDependency where the engine, or a library it needs of CUDA, is not installed, EngineError where it cannot
        open the model or finds no GPU.
        """
        directory = Path(path).absolute()
        manifest = open_guard(directory, verify=verify)
        check_options(manifest, threads, device, max_tokens, max_windows, long_text)
        check_normalize(normalize)
        options: dict[str, Any] = {
            "threads": threads,
            "device": device,
            "max_tokens": max_tokens,
            "max_windows": max_windows,
            "long_text": long_text,
            "normalize": normalize,
            "queue": queue or Bounds(),
            "in_memory": in_memory,
        }
        return cls(directory, manifest, **options, opening=Opening(directory, manifest, verify, options))

    def check(
        self,
        text: str,
        response: str | None = None,
        *,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> Verdict:
        """Judge a user's text, or (mode response) an assistant's reply to it, at once and in this thread.

        policies: of a guard that has several, those to judge (default: the manifest's `asked`); no others are run.
        threshold: unsafe from this score on; a mapping gives one to fields by name, and {} goes by argmax alone.
        By default that of the manifest, where `guardpass calibrate` chose one, else argmax.
        strict: controversial answers count as unsafe (default True).
        temperature, alpha: T and alpha of the score in the ShieldGemma paper (arXiv 2407.21772), by default 1 and 0.
        normalize: "on" also judges the plain form of a text that is not NFC or holds invisible characters, and the
        worse form counts; "off" judges the text as it stands alone (default: what `load` was given).
        on_error: what a failure becomes. "raise" raises it; "block" gives an unsafe verdict that says so; "allow" a
        safe one where the service failed, never where it may be the text's doing.
        Raises InputError (BadText and TextTooLong among them), EngineError and Closed; none ever means safe.
        """
        check_on_error(on_error)
        try:
            return self._run(self.judge.request(text, response, **options))
        except GuardpassError as error:
            return undecided(error, on_error, mode_of(response))

    def check_many(
        self,
        items: Iterable[str | tuple[str, str | None]],
        *,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> Iterator[Verdict]:
        """Verdicts in the order of `items`, each a text or a pair (text, response), as they are drawn.

        options: those of `check`. One request is one pass: batching gains nothing on a CPU and would let requests
        touch each other's activation scales (`submit_many` batches where the engine gains from it). An item that
        cannot be judged raises at its turn and ends the iteration.
        """
        for item in items:
            yield self.check(*pair_of(item), on_error=on_error, **options)

    def submit(
        self,
        text: str,
        response: str | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> "Future[Verdict]":
        """Judge in turn, in the guard's own thread: first come first, of higher `priority` before.

        On a GPU it is run together with what waits and is about as long, though it does not wait for any of that.
        timeout: seconds from now until the request is given up; it then never reaches the engine, or leaves it if the
        engine can be stopped. options: those of `check`. `cancel()` of the future does the same.
        Raises, or gives the future, what `check` would, and Overloaded and DeadlineExceeded.
        """
        return self._submit([(text, response)], lambda found: found[0], timeout, priority, on_error, options)

    def submit_many(
        self,
        items: Iterable[str | tuple[str, str | None]],
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> "Future[list[Verdict]]":
        """The verdicts of several texts as one request of `submit`: admitted, answered and failed together."""
        return self._submit(
            [pair_of(item) for item in items], lambda found: found, timeout, priority, on_error, options
        )

    async def acheck(
        self,
        text: str,
        response: str | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> Verdict:
        """`submit`, awaited. Cancelling the task cancels the request."""
        future = self.submit(text, response, timeout=timeout, priority=priority, on_error=on_error, **options)
        return await awaited(future)

    def stream(self, prompt: str, **options: Unpack[CheckOptions]) -> Session:
        """Judge a reply to `prompt` while it grows: `session.feed(chunk)`. options: those of `check`, less on_error.

        Raises Unsupported where the engine cannot keep keys and values, InputError where the guard judges no replies.
        """
        if not isinstance(self._engine, Incremental):
            raise Unsupported(
                f"the engine of {self.manifest.name} ({self.manifest.engine.name}) cannot keep keys and values of a "
                "text that grows; check it anew at each step, or export it with --engine native or llamacpp"
            )
        return Session(self.judge, self._engine, prompt, options)

    @property
    def name(self) -> str:
        """The guard's name, by which a server lists it."""
        return self.manifest.name

    @property
    def family(self) -> str:
        """The row of the families' table that the guard was exported with."""
        return self.manifest.family

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What the guard judges: "prompt", "response"."""
        return tuple(mode for mode in get_args(Mode) if mode in self.manifest.modes)

    @property
    def policies(self) -> dict[Mode, tuple[str, ...]]:
        """By mode, the policies that `check(policies=...)` may name; empty for a guard without separate policies."""
        return {mode: self.judge.named_policies(mode) for mode in self.modes}

    @property
    def labels(self) -> dict[str, tuple[Label, ...]]:
        """By field, the labels that it may get, of all modes."""
        return {field: tuple(labels) for field, labels in labels_of(self.manifest).items()}

    @property
    def thresholds(self) -> dict[Mode, dict[str, float]]:
        """By mode and field, the scores from which a text is unsafe, where `guardpass calibrate` chose them."""
        modes = self.manifest.modes
        return {mode: {field: each.score for field, each in modes[mode].thresholds.items()} for mode in self.modes}

    def __repr__(self) -> str:
        engine = self.manifest.engine
        state = ", closed" if self._closed else ""
        return f"<Guard {self.name}: {self.family}, {engine.name} {engine.quant}, modes {', '.join(self.modes)}{state}>"

    def answer_text(self, verdict: Verdict) -> str:
        """A verdict of this guard in the checkpoint's own words. Raises InputError for one that `on_error` gave."""
        return self.judge.tokenizer.text(answer_ids(self.manifest, verdict))

    def describe(self) -> dict[str, Any]:
        """What `guardpass info --json` prints."""
        return describe(self.manifest, self.judge.tokenizer)

    def close(self, timeout: float | None = None) -> bool:
        """Refuse what comes, and wait until what was submitted is answered; whether it was, in `timeout` seconds."""
        self._closed = True
        return self.scheduler.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the guard is opened again, from its directory and with its options."""
        if self._closed:
            raise Closed(f"{self.manifest.name} is closed, and cannot be sent to another process")
        return _opened_again, (self._opening,)

    def __copy__(self) -> Self:
        """A guard is shared, not copied."""
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def after_fork(self) -> None:
        """In a forked process the engine's threads are not there: it is opened again when it is needed."""
        self._engine = reopened(self._engine, partial(self._opening.engine, self._open))

    def _submit(
        self,
        items: list[tuple[str, str | None]],
        shape: Callable[[list[Verdict]], T],
        timeout: float | None,
        priority: int,
        on_error: OnError,
        options: CheckOptions,
    ) -> "Future[T]":
        check_on_error(on_error)
        check_timing(timeout, priority)

        def fallback(error: GuardpassError) -> T:
            return shape([undecided(error, on_error, mode_of(response)) for _, response in items])

        try:
            requests = [self.judge.request(text, response, **options) for text, response in items]
        except GuardpassError as error:
            answered: Future[T] = Future()
            answered.set_result(fallback(error))
            return answered

        def work(stop: StopToken, waited: float) -> T:
            return shape([self._run(request, stop, waited) for request in requests])

        batch = self._batch(requests, shape)
        sizes = [self.judge.size(request) for request in requests]
        passes = [size.passes for size in sizes]
        return self.scheduler.submit(
            work,
            tokens=sum(size.tokens for size in sizes),
            passes=max(passes, default=0) if batch else sum(passes),
            timeout=timeout,
            priority=priority,
            fallback=fallback,
            batch=batch,
        )

    def _batch(self, requests: list[Request], shape: Callable[[list[Verdict]], T]) -> Batch | None:
        """How requests are run together with others; None where the engine does not gain from it."""
        engine = self._engine
        if not isinstance(engine, Batching):
            return None
        # Several requests are a batch of their own.
        key = engine.alike(requests[0].tokens) if len(requests) == 1 else object()
        if key is None:
            return None

        def parts(stop: StopToken, waited: float) -> list[Callable[[], Run]]:
            return [partial(Run, self.judge, request, waited=waited, stop=stop) for request in requests]

        together = partial(run_together, execute=engine.run_batch)
        return Batch(key, engine.requests, engine.tokens, parts, run=together, finish=shape)

    def _run(self, request: Request, stop: StopToken | None = None, waited: float = 0.0) -> Verdict:
        """Plan, run, decide. waited: seconds, for the verdict."""
        if self._closed and stop is None:
            raise Closed(f"{self.manifest.name} is closed; load it again")
        run = Run(self.judge, request, waited=waited)
        while (each := run.next) is not None:
            run.take(run_pass(self._engine, each, stop))
        return run.verdict()


def _opened_again(opening: Opening) -> Guard:
    opening.prove()
    return Guard.load(opening.directory, verify=opening.verify, **opening.options)
