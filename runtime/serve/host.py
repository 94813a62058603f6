"""The guards of a server: Host opens, warms up, reloads and drains them."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..errors import Closed, GuardpassError, InputError
from ..guard import Guard
from ..panel import Panel
from ..panel_policy import PanelPolicy
from ..scheduling.queue import Bounds
from .errors import NotFound
from .logs import log
from .settings import Settings

State = Literal["loading", "ready", "draining", "closed"]
# The models that OpenAI's own clients name by default.
_OPENAI = {"omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest", "text-moderation-stable"}
_HANDOVER = 1.0  # seconds in which a request that holds the old guard may still submit to it


@dataclass
class Host:
    """`load` runs once, in a thread; `reload` at any time later. A guard that does not open changes nothing."""

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
        """Open every guard anew, and replace the old ones if all of them open; returns whether they do."""
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
        """A guard by its name; None and OpenAI's models name the first. Raises NotFound and Closed."""
        if self.state in ("loading", "closed") or not self.guards:  # a signal may come before any is loaded
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
        """A panel of all guards. Raises InputError."""
        self.find(None)
        if not isinstance(policy, str):
            raise InputError(f"panel is {type(policy).__name__}, expected a policy's name")
        return Panel(self.guards, policy=cast(PanelPolicy, policy))

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether the server takes requests, and the body of /ready."""
        hung = {name: guard.scheduler.hung for name, guard in self.guards.items() if guard.scheduler.hung}
        ready = self.state == "ready" and not hung
        return ready, {"status": "ready" if ready else "hung" if self.state == "ready" else self.state, "hung": hung}

    def close(self, timeout: float) -> bool:
        """Refuse new requests and answer those accepted; returns whether all are answered in time."""
        self.state = "closed"
        return all([guard.close(timeout) for guard in list(self.guards.values())])  # noqa: C419, each is closed

    def _open(self) -> dict[str, Guard]:
        settings, guards = self.settings, dict[str, Guard]()
        for chosen, path in settings.paths():
            guard = Guard.load(
                path,
                threads=settings.threads,
                device=settings.device,
                verify=settings.verify,
                max_tokens=settings.max_tokens,
                max_windows=settings.max_windows,
                long_text=settings.long_text,
                normalize=settings.normalize,
                in_memory=settings.in_memory,
                queue=Bounds(settings.max_queue, settings.max_queue_tokens),
            )
            name = chosen or guard.manifest.name
            if ":" in name:
                raise InputError(
                    f"the name of the guard at {path} is {name}, and a colon separates a name from an answer style; "
                    f"choose a name without a colon, as in NAME={path}"
                )
            if name in guards:
                raise InputError(f"two guards have the name {name}; name them, as in NAME={path}")
            for mode in guard.manifest.modes:
                guard.check("warm up", "warm up" if mode == "response" else None)
            guards[name] = guard
            log(
                "info", "guard loaded", guard=name, engine=guard.manifest.engine.name, quant=guard.manifest.engine.quant
            )
        return guards
