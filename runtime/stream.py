"""Judges a reply while it grows."""

from typing import Any, Self

from .engines.base import Incremental, SessionEngine
from .errors import Closed, Unsupported
from .forks import renewed_in_child
from .judge import Judge
from .request import CheckOptions
from .run import Run
from .tokenizer import checked
from .verdict import Verdict


class Session:
    """A growing reply, made by `Guard.stream`. Use it from one thread, and close it to free its memory."""

    def __init__(self, judge: Judge, engine: Incremental, prompt: str, options: CheckOptions) -> None:
        """Raises InputError for invalid options, EngineError where memory is short."""
        self._judge = judge
        self._engine = engine
        self._prompt = prompt
        self._options = options
        judge.request(prompt, "", **options)  # raises for invalid options now, not at the first chunk
        # One for each form of the text: the keys and values of a plain form differ from its first difference on.
        self._forms: list[SessionEngine] = [engine.session()]
        self._closed = False
        self.text = ""  # the reply so far
        renewed_in_child(self)

    def feed(self, chunk: str) -> Verdict:
        """Append a chunk and judge the whole reply so far. Only the new tokens are computed.

        Args:
            chunk: The text to append. A chunk that cannot be judged is not appended.

        Returns:
            The verdict that `Guard.check(prompt, reply)` gives.

        Raises:
            InputError: The chunk or the reply cannot be judged (BadText, TextTooLong).
            EngineError: The engine failed (BadScores included).
            Closed: The session is closed, or the process forked after the session began.
        """
        if self._closed:
            raise Closed("the session is closed, or was begun before the process was forked; begin another")
        text = self.text + checked(chunk, "chunk")
        run = Run(self._judge, self._judge.request(self._prompt, text, **self._options))
        while (request := run.next) is not None:
            if run.form == len(self._forms):
                self._forms.append(self._engine.session())
            grown = self._forms[run.form].run(request)
            run.take(grown.scores, grown.reused)
        self.text = text
        return run.verdict()

    def close(self) -> None:
        """Free the memory of the session."""
        if not self._closed:
            self._closed = True
            for engine in self._forms:
                engine.close()

    def after_fork(self) -> None:
        """Close the session in a forked process, where its engine cannot run."""
        self._closed = True

    def __reduce__(self) -> tuple[Any, ...]:
        raise Unsupported("a session cannot be copied or sent to another process; begin one there")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
