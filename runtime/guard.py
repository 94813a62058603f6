"""The main path: a guard directory in, verdicts out."""

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from .awaiting import awaited
from .combine import combined
from .content import ContentTokenizer, checked
from .decide import Decider, Outcome, Reading
from .describe import describe
from .engines import Batching, Keeping, open_engine, run_pass
from .engines.reopened import reopened
from .errors import Closed, GuardpassError, InputError
from .forks import renewed_in_child
from .integrity import open_guard
from .literal import literal
from .manifest import Device, Manifest, Mode, Role
from .opening import Opening
from .options import check_options
from .passes import Pass, Planner
from .question import Question, mode_of, pair_of
from .scheduler import Scheduler
from .session import Session
from .steps import Scores, Steps, alone
from .stop import Stop
from .tree import judged, pruned
from .undecided import OnError, check_on_error, undecided
from .verdict import Milliseconds, Tokens, Verdict
from .waiting import Batch, Bounds, check_timing
from .windows import Limits, LongText, spans

T = TypeVar("T")

# The CPU attention operator holds heads x T x T scores: half a gigabyte for 32 heads at this length.
DEFAULT_MAX_TOKENS = 2048
DEFAULT_MAX_WINDOWS = 16
_KNOWN = 64  # sets of policies kept prepared


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
        queue: Bounds,
        in_memory: bool,
        opening: Opening,
    ) -> None:
        """For `Guard.load`, which proves what is passed here."""
        self.manifest = manifest
        self._tokenizer = ContentTokenizer.of(directory, manifest)
        self._judged = {name: judged(manifest.labels, mode.tree) for name, mode in manifest.modes.items()}
        self._known: dict[tuple[Mode, tuple[str, ...]], tuple[Planner, Decider]] = {}
        longest = max_tokens or min(manifest.context, DEFAULT_MAX_TOKENS)
        self._open = partial(
            open_engine, directory, manifest, threads=threads, max_tokens=longest, device=device, in_memory=in_memory
        )
        self._engine = self._open()
        self._limits = Limits(longest, max_windows, long_text)
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
        options: dict[str, Any] = {
            "threads": threads, "device": device, "max_tokens": max_tokens, "max_windows": max_windows,
            "long_text": long_text, "queue": queue or Bounds(), "in_memory": in_memory,
        }  # fmt: skip
        return cls(directory, manifest, **options, opening=Opening(directory, manifest, verify, options))

    def check(
        self,
        text: str,
        response: str | None = None,
        *,
        policies: Iterable[str] | None = None,
        threshold: float | Mapping[str, float] | None = None,
        strict: bool = True,
        temperature: float = 1.0,
        alpha: float = 0.0,
        on_error: OnError = "raise",
    ) -> Verdict:
        """Judge a user's text, or (mode response) an assistant's reply to it, at once and in this thread.

        policies: of a guard that has several, those to judge (default: the manifest's `asked`); no others are run.
        threshold: unsafe from this score on; a mapping gives one to fields by name, and {} goes by argmax alone.
        By default that of the manifest, where `guardpass calibrate` chose one, else argmax.
        strict: controversial answers count as unsafe. temperature, alpha: of the score, see `decide.Reading`.
        on_error: what becomes of a failure, see `undecided`.
        Raises InputError (BadText and TextTooLong among them), EngineError and Closed; none ever means safe.
        """
        check_on_error(on_error)
        try:
            return self._judge(self._question(text, response, policies, threshold, strict, temperature, alpha))
        except GuardpassError as error:
            return undecided(error, on_error, mode_of(response))

    def check_many(self, items: Iterable[str | tuple[str, str | None]], **options: Any) -> Iterator[Verdict]:
        """Verdicts in the order of `items`, each a text or a pair (text, response), as they are drawn.

        options: those of `check`. One request is one pass: batching gains nothing on a CPU and would let requests
        touch each other's activation scales (`submit_many` batches where the engine gains from it). An item that
        cannot be judged raises at its turn and ends the iteration.
        """
        for item in items:
            yield self.check(*pair_of(item), **options)

    def submit(
        self, text: str, response: str | None = None, *, timeout: float | None = None, priority: int = 0,
        on_error: OnError = "raise", **options: Any,
    ) -> "Future[Verdict]":  # fmt: skip
        """Judge in turn, in the guard's own thread: first come first, of higher `priority` before.

        On a GPU it is run together with what waits and is about as long, though it does not wait for any of that.
        timeout: seconds from now until the request is given up; it then never reaches the engine, or leaves it if the
        engine can be stopped. options: those of `check`. `cancel()` of the future does the same.
        Raises, or gives the future, what `check` would, and Overloaded and DeadlineExceeded.
        """
        return self._submit([(text, response)], lambda found: found[0], timeout, priority, on_error, options)

    def submit_many(
        self, items: Iterable[str | tuple[str, str | None]], *, timeout: float | None = None, priority: int = 0,
        on_error: OnError = "raise", **options: Any,
    ) -> "Future[list[Verdict]]":  # fmt: skip
        """The verdicts of several texts as one request of `submit`: admitted, answered and failed together."""
        return self._submit(
            [pair_of(item) for item in items], lambda found: found, timeout, priority, on_error, options
        )

    async def acheck(self, text: str, response: str | None = None, **options: Any) -> Verdict:
        """`submit`, awaited. Cancelling the task cancels the request."""
        return await awaited(self.submit(text, response, **options))

    def stream(self, prompt: str, **options: Any) -> Session:
        """Judge a reply to `prompt` while it grows: `session.feed(chunk)`. options: those of `check`, less on_error.

        Raises Unsupported where the engine cannot keep keys and values, InputError where the guard judges no replies.
        """
        return Session(self, prompt, options)

    def literal(self, verdict: Verdict) -> str:
        """A verdict of this guard in the checkpoint's own words. Raises InputError for one that `on_error` gave."""
        return literal(self.manifest, self._tokenizer, verdict)

    def describe(self) -> dict[str, Any]:
        """What `guardpass info --json` prints."""
        return describe(self.manifest, self._tokenizer)

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
        self, items: list[tuple[str, str | None]], shape: Callable[[list[Verdict]], T], timeout: float | None,
        priority: int, on_error: OnError, options: dict[str, Any],
    ) -> "Future[T]":  # fmt: skip
        check_on_error(on_error)
        check_timing(timeout, priority)

        def fallback(error: GuardpassError) -> T:
            return shape([undecided(error, on_error, mode_of(response)) for _, response in items])

        try:
            questions = [self._question(text, response, **options) for text, response in items]
        except GuardpassError as error:
            answered: Future[T] = Future()
            answered.set_result(fallback(error))
            return answered

        def work(stop: Stop, waited: float) -> T:
            return shape([self._judge(question, stop, waited) for question in questions])

        batch = self._batch(questions, shape)
        passes = [self._passes(question) for question in questions]
        tokens = [min(q.tokens, self._limits.tokens * each) for q, each in zip(questions, passes, strict=True)]
        return self.scheduler.submit(
            work, tokens=sum(tokens), passes=max(passes, default=0) if batch else sum(passes), timeout=timeout,
            priority=priority, fallback=fallback, batch=batch,
        )  # fmt: skip

    def _passes(self, question: Question) -> int:
        """About how many windows a question takes; an eighth of each is its neighbour's too."""
        windows = -(-question.tokens * 8 // (self._limits.tokens * 7))
        return min(max(windows, 1), self._limits.windows if self._limits.policy == "windows" else 1)

    def _batch(self, questions: list[Question], shape: Callable[[list[Verdict]], T]) -> Batch | None:
        """How a request is run together with others; None where the engine does not gain from it."""
        engine = self._engine
        if not isinstance(engine, Batching):
            return None
        # Several questions are a batch of their own.
        key = engine.alike(questions[0].tokens) if len(questions) == 1 else object()
        if key is None:
            return None

        def begin(waited: float) -> list[Steps[Verdict]]:
            return [self._steps(question, waited, []) for question in questions]

        return Batch(key, engine.requests, engine.tokens, begin, shape, engine.run_batch)

    def _question(
        self, text: str, response: str | None = None, policies: Iterable[str] | None = None,
        threshold: float | Mapping[str, float] | None = None, strict: bool = True, temperature: float = 1.0,
        alpha: float = 0.0,
    ) -> Question:  # fmt: skip
        """A request that can be judged. Raises InputError."""
        mode = mode_of(response)
        texts: dict[Role, str] = {"prompt": checked(text, "text")}
        if response is not None:
            texts["response"] = checked(response, "response")
        if mode not in self.manifest.modes:
            raise InputError(f"{self.manifest.name} judges {sorted(self.manifest.modes)}, and has no mode {mode!r}")
        calibrated = {field: each.score for field, each in self.manifest.modes[mode].thresholds.items()} or None
        reading = Reading(calibrated if threshold is None else threshold, strict, temperature, alpha)
        reading.check(self._judged[mode])
        tree = len(self.manifest.modes[mode].tree.tokens)
        return Question(mode, texts, self._policies(mode, policies), reading, tree)

    def _judge(
        self, question: Question, stop: Stop | None = None, waited: float = 0.0, engine: Keeping | None = None
    ) -> Verdict:
        """Tokenize, run, decide. `waited`, in seconds, is for the verdict; engine: a session's, instead of the own."""
        if self._closed and stop is None:
            raise Closed(f"{self.manifest.name} is closed; load it again")
        kept: list[int] = []

        def run(request: Pass) -> Scores:
            scores = run_pass(engine or self._engine, request, stop)
            kept.append(engine.kept if engine else 0)
            return scores

        return alone(self._steps(question, waited, kept), run)

    def _steps(self, question: Question, waited: float, kept: list[int]) -> Steps[Verdict]:
        """The passes of a request, and its verdict. kept: tokens that a session did not run, of each pass so far."""
        start = time.perf_counter()
        planner, decider = self._prepared(question.mode, question.policies)
        spec = self.manifest.modes[question.mode]
        covered, truncated = spans(question.texts, spec, planner, self._tokenizer, self._limits)
        literals = self._tokenizer.suspicious_literals("\n".join(question.texts.values()))
        tokenized = time.perf_counter()
        windows: list[tuple[Outcome, ...]] = []
        reused = ran = 0
        for span in covered:
            request = planner.plan(span)
            scores = yield request
            windows.append(decider.decide(scores[0], question.reading))
            reused, ran = reused + len(request.chain), ran + request.tokens.size
        ended = time.perf_counter()
        return combined(
            windows,
            mode=question.mode,
            truncated=truncated,
            suspicious_literals=literals,
            tokens=Tokens(reused + sum(kept), ran - sum(kept)),
            ms=Milliseconds(
                queue=waited * 1e3,
                tokenize=(tokenized - start) * 1e3,
                run=(ended - tokenized) * 1e3,
                total=(waited + time.perf_counter() - start) * 1e3,
            ),
        )

    def _policies(self, mode: Mode, asked: Iterable[str] | None) -> tuple[str, ...]:
        """The roots to walk from, in the order of the tree."""
        spec = self.manifest.modes[mode]
        roots = [spec.tree.slots[root].field for root in spec.tree.roots]
        if asked is None:  # all, where there is but one root
            return tuple(root for root in roots if root in spec.asked) or tuple(roots)
        wanted = list(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
        unknown = [policy for policy in wanted if policy not in roots]
        if unknown or not wanted or not spec.asked:
            has = f"the policies {roots}" if spec.asked else "no separate policies"
            raise InputError(f"policies: found {wanted}, and {self.manifest.name} has {has}; name one or more of them")
        return tuple(root for root in roots if root in wanted)

    def _prepared(self, mode: Mode, policies: tuple[str, ...]) -> tuple[Planner, Decider]:
        """What plans and reads a mode's passes with the branches of these policies."""
        known = self._known.get((mode, policies))
        if known is None:
            spec = self.manifest.modes[mode]
            tree = pruned(spec.tree, policies)
            known = Planner(self.manifest, spec, tree, self._tokenizer), Decider(self.manifest, spec, tree)
            if len(self._known) < _KNOWN:
                self._known[mode, policies] = known
        return known


def _opened_again(opening: Opening) -> Guard:
    opening.prove()
    return Guard.load(opening.directory, verify=opening.verify, **opening.options)
