"""The main path: opens a guard directory and returns verdicts."""

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
from .request import CheckOptions, Normalize, Request, SubmitOptions, check_normalize, mode_of, pair_of
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

# The attention operator for CPUs allocates heads x T x T scores: half a gigabyte for 32 heads at this length.
DEFAULT_MAX_TOKENS = 2048
DEFAULT_MAX_WINDOWS = 16


class Guard:
    """An open guard. Threads may share one.

    `check` runs in the calling thread. Passes of several threads run concurrently; those of llama.cpp take turns under
    a lock. `submit` and `acheck` put requests into the queue of the guard, whose own thread runs them.
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
        """Use `Guard.load`, which validates the arguments."""
        self.manifest = manifest
        pass_tokens = max_tokens or min(manifest.context, DEFAULT_MAX_TOKENS)
        limits = Limits(pass_tokens, max_windows, long_text)
        self.judge = Judge(manifest, ContentTokenizer.of(directory, manifest), limits, normalize)
        self._open = partial(
            open_engine,
            directory,
            manifest,
            threads=threads,
            max_tokens=pass_tokens,
            device=device,
            in_memory=in_memory,
        )
        self._engine = self._open()
        self._closed = False
        self._opening = opening
        self.scheduler = Scheduler(manifest.name, queue)
        weakref.finalize(self, self.scheduler.close, 0.0)  # ends its threads with the guard
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
        """Open a guard directory. It downloads nothing.

        Args:
            path: The guard directory, as export wrote it.
            threads: Threads of the engine. None: the cores that this process may use.
            device: "cpu" or "cuda". None: the device that the guard was exported for. A GGUF guard runs on both. An
                ONNX guard exported for "cuda" in fp32 or fp16 runs on the "cpu" too. Any other guard runs on its own
                device, or raises InputError.
            verify: Compare the SHA-256 of every file with guard.json. False: compare files over 64 MiB by size alone.
            max_tokens: Tokens of one pass, prefix and tree included; at most the context of the checkpoint. None: the
                context, but at most 2048.
            max_windows: Refuse a text that takes more windows.
            long_text: A text longer than one pass is judged in overlapping "windows" (the worst decides), or raises
                TextTooLong ("refuse"), or is cut ("truncate"; the verdict says so).
            normalize: "on": also judge the plain form of a text that is not NFC or holds invisible characters, and the
                worse form counts. "off": judge the text as it stands, as the checkpoint's own stack does.
            queue: Limits of the queue of submitted requests. None: `Bounds()`.
            in_memory: Read the weights instead of mapping them (ONNX: at about twice the memory). If a mapped file is
                written to while the guard is open, every later pass raises EngineError. GGUF guards are always read.

        Returns:
            The open guard; close it, or use it as a context manager.

        Raises:
            GuardError: The guard is missing, corrupt or altered.
            InputError: An option is out of range, or the guard does not run on the device.
            MissingDependency: The engine, or a CUDA library that it needs, is not installed.
            EngineError: The engine cannot open the model, or finds no GPU.
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
        """Judge a user's text (mode prompt), or an assistant's reply to it (mode response), in this thread.

        Args:
            text: The user's text.
            response: The assistant's reply. None: judge the user's text.
            on_error: "raise" raises a failure. "block" returns an unsafe verdict that names it. "allow" returns a safe
                verdict where the service failed, never where the text may have caused the failure.
            policies: The policies to judge, of a guard that has several; no others run. None: the guard's default.
            threshold: A field is unsafe from this score on (0 to 1). A mapping sets fields by name; {} decides by
                argmax alone. None: the thresholds that `guardpass calibrate` stored, else argmax.
            strict: Controversial answers count as unsafe. Default: True.
            temperature: T of the score in the ShieldGemma paper (arXiv 2407.21772). Default: 1.
            alpha: alpha of that score. Default: 0.
            normalize: "on" or "off", as in `load`. None: the value that `load` got.

        Returns:
            The verdict of the worst window, form and policy.

        Raises:
            InputError: The text (BadText, TextTooLong) or an option cannot be used.
            EngineError: The engine failed (BadScores included). It never means safe.
            Closed: The guard is closed.
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
        """Judge several texts one after another, lazily.

        Each request is one pass: a batch gains nothing on a CPU, and in ONNX's int8 requests would share activation
        scales. `submit_many` batches on engines that gain from it.

        Args:
            items: Texts, or pairs (text, response).
            on_error: As in `check`.
            **options: The options of `check`.

        Returns:
            An iterator over the verdicts, in the order of `items`. It judges an item when the verdict is drawn.

        Raises:
            GuardpassError: An item fails, as in `check`. The error ends the iteration.
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
        """Put a request into the queue of the guard, whose own thread judges it.

        On a GPU it shares a batch with waiting requests of about its length; it never waits for a batch to fill.

        Args:
            text: The user's text.
            response: The assistant's reply. None: judge the user's text.
            timeout: Seconds from now to the deadline. A late request never starts, or stops if the engine can be
                stopped. None: no deadline.
            priority: Higher priorities run first; first come, first served within a priority.
            on_error: As in `check`; it holds for refusals and deadlines too.
            **options: The options of `check`.

        Returns:
            The future of the verdict. Its `cancel()` also stops a running request if the engine can be stopped.

        Raises:
            Overloaded: The queue is full, or the request cannot meet its deadline.
            DeadlineExceeded: The deadline passed before the verdict.
            Cancelled: The request was cancelled while it ran.
            GuardpassError: Any error of `check`. All of these are raised here or from the future.
        """
        return self._submit([(text, response)], lambda verdicts: verdicts[0], timeout, priority, on_error, options)

    def submit_many(
        self,
        items: Iterable[str | tuple[str, str | None]],
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> "Future[list[Verdict]]":
        """Submit several texts as one request: it is admitted, answered and failed as a whole.

        Args:
            items: Texts, or pairs (text, response).
            timeout: As in `submit`, for the whole request.
            priority: As in `submit`.
            on_error: As in `check`; one failure gives every item an UNDECIDED verdict.
            **options: The options of `check`.

        Returns:
            The future of the verdicts, in the order of `items`.

        Raises:
            GuardpassError: Any error of `submit`, here or from the future.
        """
        pairs = [pair_of(item) for item in items]
        return self._submit(pairs, lambda verdicts: verdicts, timeout, priority, on_error, options)

    async def acheck(self, text: str, response: str | None = None, **options: Unpack[SubmitOptions]) -> Verdict:
        """Submit a request and await its verdict. Cancelling the task cancels the request.

        Args:
            text: The user's text.
            response: The assistant's reply. None: judge the user's text.
            **options: The options of `submit`: timeout, priority, on_error, and those of `check`.

        Returns:
            The verdict.

        Raises:
            GuardpassError: Any error of `submit`.
        """
        return await awaited(self.submit(text, response, **options))

    def stream(self, prompt: str, **options: Unpack[CheckOptions]) -> Session:
        """Begin a session, which judges a reply while it grows.

        Args:
            prompt: The user's text.
            **options: The options of `check`, without on_error.

        Returns:
            The session: `session.feed(chunk)` returns the verdict of the reply so far.

        Raises:
            Unsupported: The engine cannot reuse keys and values.
            InputError: An option cannot be used, or the guard has no mode response.
            EngineError: Memory is short.
        """
        if not isinstance(self._engine, Incremental):
            raise Unsupported(
                f"the engine of {self.manifest.name} ({self.manifest.engine.name}) cannot reuse keys and values of a "
                "growing text; check the whole text at each step, or export it with --engine native or llamacpp"
            )
        return Session(self.judge, self._engine, prompt, options)

    @property
    def name(self) -> str:
        """The guard's name. A server lists the guard by it."""
        return self.manifest.name

    @property
    def family(self) -> str:
        """The family that export applied: the name of a row of the families' table."""
        return self.manifest.family

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes of the guard: "prompt", "response", or both."""
        return tuple(mode for mode in get_args(Mode) if mode in self.manifest.modes)

    @property
    def policies(self) -> dict[Mode, tuple[str, ...]]:
        """By mode, the policies that `check(policies=...)` accepts; empty for a guard without separate policies."""
        return {mode: self.judge.named_policies(mode) for mode in self.modes}

    @property
    def labels(self) -> dict[str, tuple[Label, ...]]:
        """By field, the possible labels, over all modes."""
        return {field: tuple(labels) for field, labels in labels_of(self.manifest).items()}

    @property
    def thresholds(self) -> dict[Mode, dict[str, float]]:
        """By mode and field, the thresholds that `guardpass calibrate` stored; unsafe from this score on."""
        modes = self.manifest.modes
        return {mode: {field: row.score for field, row in modes[mode].thresholds.items()} for mode in self.modes}

    def __repr__(self) -> str:
        engine = self.manifest.engine
        state = ", closed" if self._closed else ""
        return f"<Guard {self.name}: {self.family}, {engine.name} {engine.quant}, modes {', '.join(self.modes)}{state}>"

    def answer_text(self, verdict: Verdict) -> str:
        """Write a verdict as the checkpoint's own answer: the text of a step-by-step decode, without a stop token.

        Args:
            verdict: A verdict of this guard.

        Returns:
            The answer, reserved tokens included.

        Raises:
            InputError: The verdict holds no answer of this guard (an UNDECIDED verdict of `on_error`).
        """
        return self.judge.tokenizer.text(answer_ids(self.manifest, verdict))

    def describe(self) -> dict[str, Any]:
        """Describe the guard.

        Returns:
            The object that `guardpass info --json` prints: plain dicts, lists, strings and numbers. Token counts assume
            empty content.
        """
        return describe(self.manifest, self.judge.tokenizer)

    def close(self, timeout: float | None = None) -> bool:
        """Refuse new requests, and wait until every submitted request has its answer.

        Args:
            timeout: Seconds to wait; the remaining requests then fail with Closed. None: no limit.

        Returns:
            Whether every request had its answer in time. Requests of hung passes failed at their deadlines.
        """
        self._closed = True
        return self.scheduler.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the directory and the options, so that another process opens the guard again."""
        if self._closed:
            raise Closed(f"{self.manifest.name} is closed, and cannot be sent to another process")
        return _opened_again, (self._opening,)

    def __copy__(self) -> Self:
        """Return the guard itself."""
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def after_fork(self) -> None:
        """In a forked process, which lacks the engine's threads: open the engine again at the first pass."""
        self._engine = reopened(self._engine, partial(self._opening.engine, self._open))

    def _submit(
        self,
        items: list[tuple[str, str | None]],
        result: Callable[[list[Verdict]], T],
        timeout: float | None,
        priority: int,
        on_error: OnError,
        options: CheckOptions,
    ) -> "Future[T]":
        check_on_error(on_error)
        check_timing(timeout, priority)

        def fallback(error: GuardpassError) -> T:
            return result([undecided(error, on_error, mode_of(response)) for _, response in items])

        try:
            requests = [self.judge.request(text, response, **options) for text, response in items]
        except GuardpassError as error:
            refused: Future[T] = Future()
            refused.set_result(fallback(error))
            return refused

        def work(stop: StopToken, waited: float) -> T:
            return result([self._run(request, stop, waited) for request in requests])

        batch = self._batch(requests, result)
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

    def _batch(self, requests: list[Request], result: Callable[[list[Verdict]], T]) -> Batch | None:
        """How the engine runs these requests with others; None where it gains nothing from a batch."""
        engine = self._engine
        if not isinstance(engine, Batching):
            return None
        # `submit_many` makes a batch of its own.
        key = engine.alike(requests[0].tokens) if len(requests) == 1 else object()
        if key is None:
            return None

        def parts(stop: StopToken, waited: float) -> list[Callable[[], Run]]:
            return [partial(Run, self.judge, request, waited=waited, stop=stop) for request in requests]

        together = partial(run_together, execute=engine.run_batch)
        return Batch(key, engine.requests, engine.tokens, parts, run=together, finish=result)

    def _run(self, request: Request, stop: StopToken | None = None, waited: float = 0.0) -> Verdict:
        """Plan, run and decide. waited: seconds in the queue."""
        if self._closed and stop is None:
            raise Closed(f"{self.manifest.name} is closed; load it again")
        run = Run(self.judge, request, waited=waited)
        while (request_pass := run.next) is not None:
            run.take(run_pass(self._engine, request_pass, stop))
        return run.verdict()


def _opened_again(opening: Opening) -> Guard:
    opening.prove()
    return Guard.load(opening.directory, verify=opening.verify, **opening.options)
