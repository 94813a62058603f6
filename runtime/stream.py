"""A reply that is judged while it grows."""

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
    """Made by `Guard.stream`. For one thread; it holds keys and values of its own until it is closed."""

    def __init__(self, judge: Judge, engine: Incremental, prompt: str, options: CheckOptions) -> None:
        """Raises InputError for options that cannot be judged by, EngineError where there is no memory."""
        self._judge, self._engine, self._prompt, self._options = judge, engine, prompt, options
        judge.request(prompt, "", **options)  # what is wrong with it is raised now
        # One for each form of the text: a plain form has other keys and values from its first difference on.
        self._forms: list[SessionEngine] = [engine.session()]
        self._closed = False
        self.text = ""  # the reply so far
        renewed_in_child(self)

    def feed(self, chunk: str) -> Verdict:
        """The verdict of the reply with `chunk` at its end; that of `Guard.check`, at the price of the new tokens.

        A chunk that cannot be judged is not taken. Raises what `Guard.check` does.
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
        """Give the memory back."""
        if not self._closed:
            self._closed = True
            for engine in self._forms:
                engine.close()

    def after_fork(self) -> None:
        """In a forked process its engine cannot go on."""
        self._closed = True

    def __reduce__(self) -> tuple[Any, ...]:
        raise Unsupported("a session cannot be copied or sent to another process; begin one there")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
