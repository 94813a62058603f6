"""A reply that is judged while it grows."""

from typing import TYPE_CHECKING, Any, Self

from .content import checked
from .engines import Incremental
from .errors import Closed, Unsupported
from .forks import renewed_in_child
from .verdict import Verdict

if TYPE_CHECKING:
    from .guard import Guard


class Session:
    """Made by `Guard.stream`. For one thread; it holds keys and values of its own until it is closed."""

    def __init__(self, guard: "Guard", prompt: str, options: dict[str, Any]) -> None:
        engine = guard._engine
        if not isinstance(engine, Incremental):
            raise Unsupported(
                f"the engine of {guard.manifest.name} ({guard.manifest.engine.name}) cannot keep keys and values of a "
                "text that grows; check it anew at each step, or export it with --engine native or llamacpp"
            )
        self._guard, self._prompt, self._options = guard, prompt, options
        guard._question(prompt, "", **options)  # what is wrong with it is told now
        self._engine = engine.session()
        self._closed = False
        self.text = ""  # the reply so far
        renewed_in_child(self)

    def feed(self, chunk: str) -> Verdict:
        """The verdict of the reply with `chunk` at its end; that of `Guard.check`, at the price of the new tokens.

        A chunk that cannot be judged is not taken. Raises what `Guard.check` does.
        """
        if self._closed:
            raise Closed("the session is closed, or was begun before the process was forked; begin another")
        grown = self.text + checked(chunk, "chunk")
        verdict = self._guard._judge(self._guard._question(self._prompt, grown, **self._options), engine=self._engine)
        self.text = grown
        return verdict

    def close(self) -> None:
        """Give the memory back."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    def after_fork(self) -> None:
        """In a forked process its engine cannot go on."""
        self._closed = True

    def __reduce__(self) -> tuple[Any, ...]:
        raise Unsupported("a session cannot be copied or sent to another process; begin one there")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
