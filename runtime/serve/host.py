"""The guards of a server: opened, warmed up, reloaded, drained."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..errors import Closed, GuardpassError, InputError
from ..format.manifest import Device
from ..guard import Guard
from ..panel import Panel
from ..panel_policy import PanelPolicy
from ..request import Normalize
from ..scheduling.queue import Bounds
from ..windows import LongText
from .errors import NotFound
from .logs import log
from .settings import Settings

State = Literal["loading", "ready", "draining", "closed"]
# What OpenAI's own clients ask for where they are told nothing else.
_OPENAI = {"omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest", "text-moderation-stable"}
_HANDOVER = 1.0  # seconds in which who found the old guard submits to it


@dataclass
class Host:
    """`load` is called once, from a thread; `reload` any time later. A guard that cannot be opened changes nothing."""

    settings: Settings
    guards: dict[str, Guard] = field(default_factory=dict)
    state: State = "loading"
    _reloading: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Open and warm up every guard. Raises GuardpassError."""
        self.guards = self._open()
        if self.state == "loading":
            self.state = "ready"

    def reload(self) -> bool:
        """Open every guard anew, and only when all of them work let them take over; whether they did."""
        with self._reloading:
            try:
                opened = self._open()
            except GuardpassError as error:
                log("error", "reload failed, the guards that run go on", kind=error.kind, message=str(error))
                return False
            before, self.guards = self.guards, opened
            log("info", "reloaded", guards=list(opened))
            time.sleep(_HANDOVER)
            for guard in before.values():
                guard.close(self.settings.deadline)
            return True

    def find(self, model: object) -> tuple[str, Guard]:
        """The guard of a name; the first where none is given, or one of OpenAI's. Raises NotFound, Closed."""
        if self.state in ("loading", "closed") or not self.guards:  # none yet: it is drained while it loads
            raise Closed("the guards are being loaded" if self.state == "loading" else "the server is shutting down")
        if model is not None and not isinstance(model, str):
            raise InputError(f"the guard's name is {type(model).__name__}, expected a string")
        if model in self.guards:
            return model, self.guards[model]
        if model is None or model in _OPENAI:
            return next(iter(self.guards.items()))
        hint = "; an answer style, NAME:STYLE, is for /v1/chat/completions alone" if ":" in model else ""
        raise NotFound(f"no guard has that name; this server has {list(self.guards)}{hint}")

    def panel(self, policy: object) -> Panel:
        """All guards together. Raises InputError."""
        self.find(None)
        if not isinstance(policy, str):
            raise InputError(f"panel is {type(policy).__name__}, expected a policy's name")
        return Panel(self.guards, policy=cast(PanelPolicy, policy))

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests are welcome, and why not."""
        hung = {name: guard.scheduler.hung for name, guard in self.guards.items() if guard.scheduler.hung}
        ready = self.state == "ready" and not hung
        return ready, {"status": "ready" if ready else "hung" if self.state == "ready" else self.state, "hung": hung}

    def close(self, timeout: float) -> bool:
        """Refuse what comes, answer what was accepted; whether all of it was, in time."""
        self.state = "closed"
        return all([guard.close(timeout) for guard in list(self.guards.values())])  # noqa: C419, each is closed

    def _open(self) -> dict[str, Guard]:
        settings, found = self.settings, dict[str, Guard]()
        for given, path in settings.paths():
            guard = Guard.load(
                path, threads=settings.threads, device=cast(Device | None, settings.device), verify=settings.verify,
                max_tokens=settings.max_tokens, max_windows=settings.max_windows,
                long_text=cast(LongText, settings.long_text), normalize=cast(Normalize, settings.normalize),
                in_memory=settings.in_memory,
                queue=Bounds(settings.max_queue, settings.max_queue_tokens),
            )  # fmt: skip
            name = given or guard.manifest.name
            if ":" in name:
                raise InputError(
                    f"the guard at {path} is called {name}, and a colon parts a name from an answer style; "
                    f"give it a name without one, as in NAME={path}"
                )
            if name in found:
                raise InputError(f"two guards are called {name}; name them, as in NAME={path}")
            for mode in guard.manifest.modes:
                guard.check("warm up", "warm up" if mode == "response" else None)
            found[name] = guard
            log(
                "info", "guard loaded", guard=name, engine=guard.manifest.engine.name, quant=guard.manifest.engine.quant
            )
        return found
