"""One request on its way through an endpoint."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar, Unpack

from starlette.types import Receive

from ..errors import Cancelled
from ..guard import Guard
from ..on_error import OnError
from ..panel_policy import PanelVerdict
from ..verdict import Verdict
from .errors import BodyTooLarge
from .fields import JudgingOptions
from .host import Host
from .left_out import LeftOut
from .settings import Unjudged

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An endpoint's answer: JSON (a dict or list), or bytes of the media type."""

    body: Any
    status: int = 200
    media: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """An endpoint's argument.

    judged: guards and their verdicts. unjudged: kinds of content that is not judged, and its outcome. Headers, metrics
    and the log use both.
    """

    host: Host
    body: dict[str, Any]
    deadline: float  # of the event loop's clock
    receive: Receive
    id: str
    judged: list[tuple[str, Verdict]] = field(default_factory=list)
    unjudged: list[tuple[str, Unjudged]] = field(default_factory=list)

    async def judge(
        self,
        model: object,
        items: Sequence[tuple[str, str | None]],
        *,
        on_error: OnError | None = None,
        **options: Unpack[JudgingOptions],
    ) -> tuple[str, Guard, list[Verdict]]:
        """Judge texts; returns the guard's name, the guard and its verdicts. Raises GuardpassError."""
        name, guard = self.host.find(model)
        most = self.host.settings.max_items
        if len(items) > most:
            raise BodyTooLarge(f"the request has {len(items)} texts, expected at most {most}; send several requests")
        chosen = on_error or self.host.settings.on_error
        verdicts = await self._answer(guard.submit_many(items, timeout=self._left(), on_error=chosen, **options))
        self.judged += [(name, verdict) for verdict in verdicts]
        return name, guard, verdicts

    async def ask_panel(
        self, policy: object, text: str, response: str | None, **options: Unpack[JudgingOptions]
    ) -> PanelVerdict:
        """Judge one text by all guards. Raises GuardpassError."""
        panel = self.host.panel(policy)
        on_error = self.host.settings.on_error
        verdict = await self._answer(panel.submit(text, response, timeout=self._left(), on_error=on_error, **options))
        self.judged += [(name, member) for name, member in verdict.members.items() if member is not None]
        return verdict

    def pass_over(self, left: LeftOut) -> bool:
        """Whether the server judges a request without its content that is not text; counts that content."""
        chosen = self.host.settings.unjudged
        self.unjudged += [(piece.kind, chosen) for piece in left.not_text]
        return not left.not_text or chosen == "allow"

    def _left(self) -> float:
        return max(self.deadline - asyncio.get_running_loop().time(), 1e-3)

    async def _answer(self, future: "Future[T]") -> T:
        """The future's result; cancels the future if the client disconnects first, or if the task ends."""
        if future.done():
            return future.result()
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise Cancelled("the client disconnected")
        finally:
            gone.cancel()
            answer.cancel()
            future.cancel()  # at once; no effect on one that is done

    async def _gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
