"""Several guards judge the same text; the outcome is settled as early as it can be."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Literal, Self, Unpack, get_args

from .errors import Cancelled, Closed, DeadlineExceeded, GuardpassError, InputError
from .forks import renewed_in_child, unheard
from .format.manifest import Mode
from .guard import Guard
from .on_error import OnError
from .panel_policy import PanelPolicy, PanelVerdict, Settled, settle
from .request import CheckOptions, check_names, mode_of
from .scheduling.awaiting import awaited
from .scheduling.queue import check_timing
from .verdict import Verdict

Order = Literal["together", "given", "cheapest"]


class Panel:
    """Guards that judge together. Each runs in its own thread, in the turn of its own queue."""

    def __init__(
        self,
        guards: Sequence[Guard] | Mapping[str, Guard],
        *,
        policy: PanelPolicy = "any",
        order: Order = "together",
        weights: Mapping[str, float] | None = None,
        threshold: float = 0.5,
    ) -> None:
        """guards: by name, or named by their manifests (a second one of a name is "name-2").

        policy: unsafe where "any" member says so, where "all" do, or where the members' mean score, "weighted" by
        `weights` (default 1 each), is `threshold` or more.
        order: "together" asks all at once and gives up those whose word is not needed any more; "given" and "cheapest"
        (by the bytes of their files) ask one after another, and only as long as it is not settled.
        """
        self.guards = dict(guards) if isinstance(guards, Mapping) else _named(guards)
        if not self.guards:
            raise InputError("a panel has no guards, expected one or more")
        for name, value, known in (("policy", policy, get_args(PanelPolicy)), ("order", order, get_args(Order))):
            if value not in known:
                raise InputError(f"{name} is {value!r}, expected one of: {', '.join(known)}")
        self.policy, self.order, self.threshold = policy, order, threshold
        self.weights = dict.fromkeys(self.guards, 1.0) | dict(weights or {})
        unknown = sorted(self.weights.keys() - self.guards.keys())
        if unknown or not all(0 < weight < float("inf") for weight in self.weights.values()):
            raise InputError(f"weights: found {self.weights}, expected numbers above 0 for some of {list(self.guards)}")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}, expected a mean score from 0 to 1")
        if order == "cheapest":
            self.guards = dict(sorted(self.guards.items(), key=lambda item: _bytes(item[1])))

    def check(
        self,
        text: str,
        response: str | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> PanelVerdict:
        """The members' verdict; the options are those of `Guard.submit`, for every member.

        A member that lacks the mode is not asked. One that fails counts as unknown: where it could change the outcome
        its error is raised, unless `on_error` says what it counts as. Raises InputError where no member has the mode.
        """
        return self.submit(text, response, timeout=timeout, priority=priority, on_error=on_error, **options).result()

    async def acheck(
        self,
        text: str,
        response: str | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_error: OnError = "raise",
        **options: Unpack[CheckOptions],
    ) -> PanelVerdict:
        """`check`, awaited."""
        future = self.submit(text, response, timeout=timeout, priority=priority, on_error=on_error, **options)
        return await awaited(future)

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
        """`check`, as a future; cancelling it gives up every member's request. timeout: seconds for all together."""
        check_timing(timeout, priority)
        mode = mode_of(response)
        asked = {name: guard for name, guard in self.guards.items() if mode in guard.manifest.modes}
        if not asked:
            raise InputError(f"none of {list(self.guards)} has the mode {mode!r}")
        check_names(options)
        submit: dict[str, Any] = {"priority": priority, "on_error": on_error, **options}
        session = _Session(self, asked, mode, (text, response), timeout, submit)
        session.go()
        return session

    def close(self, timeout: float | None = None) -> bool:
        """Close every member."""
        closed = [guard.close(timeout) for guard in self.guards.values()]  # all of them, whatever the first says
        return all(closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Session(Future[PanelVerdict]):
    """One text before a panel. Members answer in threads of their own, hence the lock."""

    def __init__(
        self, panel: Panel, asked: Mapping[str, Guard], mode: Mode, item: tuple[str, str | None],
        timeout: float | None, options: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self._panel, self._mode, self._item, self._options = panel, mode, item, options
        self._began, self._timeout = time.monotonic(), timeout
        self._lock = threading.RLock()
        self._left = dict(asked)  # not asked yet
        self._pending: dict[str, Future[Verdict]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._failures: dict[str, GuardpassError] = {}
        self._weights = {name: panel.weights[name] for name in asked}
        renewed_in_child(self)

    def after_fork(self) -> None:
        """In a forked process: the members' threads are not there, and may have left the locks held."""
        self._lock = threading.RLock()
        unheard(self)
        self._left.clear()
        self._pending.clear()
        with suppress(InvalidStateError):
            self.set_exception(Closed("the process was forked before the panel's verdict; submit it again here"))

    def go(self) -> None:
        """Ask the next member, or all."""
        while self._left and not self.done():
            with self._lock:
                name = next(iter(self._left))
                guard = self._left.pop(name)
            try:
                timeout = self._timeout and self._timeout - (time.monotonic() - self._began)
                if timeout is not None and timeout <= 0:
                    raise DeadlineExceeded(f"no time was left to ask {name}")
                future = guard.submit(*self._item, timeout=timeout, **self._options)
            except GuardpassError as error:
                self._take(name, error)
                continue
            with self._lock:
                self._pending[name] = future
            if self.done():  # settled by others meanwhile
                self._give_up()
            future.add_done_callback(lambda future, name=name: self._answered(name, future))  # type: ignore[misc]
            if self._panel.order != "together":
                return

    def cancel(self) -> bool:
        """Give up every member's request."""
        cancelled = super().cancel()
        self._give_up()
        return cancelled

    def _answered(self, name: str, future: "Future[Verdict]") -> None:
        if future.cancelled():
            found: Verdict | BaseException | None = Cancelled(f"{name} was given up")
        else:
            found = future.exception() or future.result()
        self._take(name, found)
        if self._panel.order != "together":
            self.go()

    def _take(self, name: str, found: Any) -> None:
        """Count a member's word, and finish where it settles the matter or was the last."""
        with self._lock:
            self._pending.pop(name, None)
            if isinstance(found, Verdict):
                self._verdicts[name] = found
            else:
                self._failures[name] = found
            settled = settle(self._panel.policy, self._panel.threshold, self._weights, self._verdicts)
            over = len(self._verdicts) + len(self._failures) == len(self._weights)
        with suppress(InvalidStateError):  # settled, or cancelled, a moment before
            if settled is not None:
                self.set_result(self._verdict(settled))
            elif over:
                self.set_exception(next(iter(self._failures.values())))
        if self.done():
            self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            self._left.clear()
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
