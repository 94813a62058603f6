"""Several guards judge the same text. A panel returns as soon as the outcome is settled."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Self, Unpack, get_args

from .errors import Cancelled, Closed, DeadlineExceeded, GuardpassError, InputError
from .forks import renewed_in_child, unheard
from .format.manifest import Mode
from .guard import Guard
from .on_error import OnError
from .panel_policy import PanelPolicy, PanelVerdict, Settled, settle
from .request import CheckOptions, SubmitOptions, check_names, mode_of
from .scheduling.awaiting import awaited
from .scheduling.queue import check_timing
from .verdict import Verdict

Order = Literal["together", "given", "cheapest"]


class Panel:
    """Guards that judge together. Each member runs in its own thread and has its own queue."""

    def __init__(
        self,
        guards: Sequence[Guard] | Mapping[str, Guard],
        *,
        policy: PanelPolicy = "any",
        order: Order = "together",
        weights: Mapping[str, float] | None = None,
        threshold: float = 0.5,
    ) -> None:
        """Make a panel of open guards.

        Args:
            guards: The members, by name; of a sequence, each is named by its manifest (the second one "name-2").
            policy: The text is unsafe if "any" member says so, if "all" members say so, or ("weighted") if the mean
                score is `threshold` or more.
            order: "together" submits to all members at once, and cancels members whose answer can no longer change the
                outcome. "given" and "cheapest" (by the bytes of their files) submit to one member after another, until
                the outcome is settled.
            weights: By member, the weight of its score, above 0. Default: 1 each.
            threshold: Of "weighted": unsafe from this mean score on (0 to 1).

        Raises:
            InputError: There are no guards, or an option is out of range.
        """
        self.guards = dict(guards) if isinstance(guards, Mapping) else _named(guards)
        if not self.guards:
            raise InputError("a panel has no guards, expected one or more")
        for name, value, choices in (("policy", policy, get_args(PanelPolicy)), ("order", order, get_args(Order))):
            if value not in choices:
                raise InputError(f"{name} is {value!r}, expected one of: {', '.join(choices)}")
        self.policy = policy
        self.order = order
        self.threshold = threshold
        self.weights = dict.fromkeys(self.guards, 1.0) | dict(weights or {})
        unknown = sorted(self.weights.keys() - self.guards.keys())
        if unknown or not all(0 < weight < float("inf") for weight in self.weights.values()):
            raise InputError(f"weights: found {self.weights}, expected numbers above 0 for some of {list(self.guards)}")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}, expected a mean score from 0 to 1")
        if order == "cheapest":
            self.guards = dict(sorted(self.guards.items(), key=lambda item: _bytes(item[1])))

    def check(self, text: str, response: str | None = None, **options: Unpack[SubmitOptions]) -> PanelVerdict:
        """Judge a text with every member that has the mode.

        A failed member counts as unknown. Its error is raised only if its verdict could change the outcome.

        Args:
            text: The user's text.
            response: The assistant's reply. None: judge the user's text.
            **options: The options of `Guard.submit`, for every member. timeout: seconds for all members together.

        Returns:
            The verdict of the panel, with those of its members.

        Raises:
            InputError: No member has the mode, or an option cannot be used.
            GuardpassError: A member failed whose verdict could change the outcome, as in `Guard.submit`.
        """
        return self.submit(text, response, **options).result()

    async def acheck(self, text: str, response: str | None = None, **options: Unpack[SubmitOptions]) -> PanelVerdict:
        """Submit a request and await its verdict. Cancelling the task cancels the members' requests.

        Args:
            text: The user's text.
            response: The assistant's reply. None: judge the user's text.
            **options: As in `check`.

        Returns:
            The verdict of the panel.

        Raises:
            GuardpassError: Any error of `check`.
        """
        return await awaited(self.submit(text, response, **options))

    def submit(
        self,
        text: str,
        response: str | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> "Future[PanelVerdict]":
        """Put a request into the queues of the members.

        Args:
            text: The user's text.
            response: The assistant's reply. None: judge the user's text.
            timeout: Seconds for all members together. None: no deadline.
            priority: As in `Guard.submit`.
            on_error: As in `Guard.check`, for each member.
            **options: The options of `Guard.check`, for every member.

        Returns:
            The future of the panel's verdict. Its `cancel()` cancels the request of every member.

        Raises:
            GuardpassError: Any error of `check`, here or from the future.
        """
        check_timing(timeout, priority)
        mode = mode_of(response)
        members = {name: guard for name, guard in self.guards.items() if mode in guard.manifest.modes}
        if not members:
            raise InputError(f"none of {list(self.guards)} has the mode {mode!r}")
        check_names(options)
        submit: dict[str, Any] = {"priority": priority, "on_error": on_error, **options}
        ballot = _Ballot(self, members, mode, (text, response), timeout, submit)
        ballot.go()
        return ballot

    def close(self, timeout: float | None = None) -> bool:
        """Close every member; returns whether all of them answered their requests within `timeout` seconds."""
        closed = [guard.close(timeout) for guard in self.guards.values()]  # a list, so that every member is closed
        return all(closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Ballot(Future[PanelVerdict]):
    """One request before a panel. Members answer from their own threads, hence the lock."""

    def __init__(
        self,
        panel: Panel,
        members: Mapping[str, Guard],
        mode: Mode,
        item: tuple[str, str | None],
        timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        self._panel = panel
        self._mode = mode
        self._item = item
        self._options = options
        self._began = time.monotonic()
        self._timeout = timeout
        self._lock = threading.RLock()
        self._queued = dict(members)  # members without a request yet
        self._pending: dict[str, Future[Verdict]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._failures: dict[str, GuardpassError] = {}
        self._weights = {name: panel.weights[name] for name in members}
        renewed_in_child(self)

    def after_fork(self) -> None:
        """In a forked process, which lacks the members' threads: renew the locks and fail the request."""
        self._lock = threading.RLock()
        unheard(self)
        self._queued.clear()
        self._pending.clear()
        with suppress(InvalidStateError):
            self.set_exception(Closed("the process was forked before the panel's verdict; submit it again here"))

    def go(self) -> None:
        """Submit to the next member, or to all."""
        while self._queued and not self.done():
            with self._lock:
                name = next(iter(self._queued))
                guard = self._queued.pop(name)
            try:
                timeout = self._timeout and self._timeout - (time.monotonic() - self._began)
                if timeout is not None and timeout <= 0:
                    raise DeadlineExceeded(f"the deadline passed before a request to {name}")
                future = guard.submit(*self._item, timeout=timeout, **self._options)
            except GuardpassError as error:
                self._take(name, error)
                continue
            with self._lock:
                self._pending[name] = future
            if self.done():  # other members settled it meanwhile
                self._cancel_members()
            future.add_done_callback(partial(self._answered, name))
            if self._panel.order != "together":
                return

    def cancel(self) -> bool:
        """Cancel the request of every member."""
        cancelled = super().cancel()
        self._cancel_members()
        return cancelled

    def _answered(self, name: str, future: "Future[Verdict]") -> None:
        if future.cancelled():
            answer: Verdict | BaseException | None = Cancelled(f"the request to {name} was cancelled")
        else:
            answer = future.exception() or future.result()
        self._take(name, answer)
        if self._panel.order != "together":
            self.go()

    def _take(self, name: str, answer: Any) -> None:
        """Record a member's verdict or error, and finish if it settles the outcome or is the last."""
        with self._lock:
            self._pending.pop(name, None)
            if isinstance(answer, Verdict):
                self._verdicts[name] = answer
            else:
                self._failures[name] = answer
            settled = settle(self._panel.policy, self._panel.threshold, self._weights, self._verdicts)
            complete = len(self._verdicts) + len(self._failures) == len(self._weights)
        with suppress(InvalidStateError):  # another thread settled or cancelled it
            if settled is not None:
                self.set_result(self._verdict(settled))
            elif complete:
                self.set_exception(next(iter(self._failures.values())))
        if self.done():
            self._cancel_members()

    def _cancel_members(self) -> None:
        with self._lock:
            self._queued.clear()
            pending = list(self._pending.values())
        for future in pending:
            future.cancel()

    def _verdict(self, settled: Settled) -> PanelVerdict:
        return PanelVerdict(
            safe=not settled.unsafe,
            policy=self._panel.policy,
            score=settled.score,
            decided_by=settled.by,
            members={name: self._verdicts.get(name) for name in self._panel.guards},
            failures={name: error.kind for name, error in self._failures.items()},
            mode=self._mode,
            ms=(time.monotonic() - self._began) * 1e3,
        )


def _named(guards: Sequence[Guard]) -> dict[str, Guard]:
    named: dict[str, Guard] = {}
    for guard in guards:
        name, number = guard.manifest.name, 1
        while name in named:
            number += 1
            name = f"{guard.manifest.name}-{number}"
        named[name] = guard
    return named


def _bytes(guard: Guard) -> int:
    return sum(file.size for file in guard.manifest.files.values())
