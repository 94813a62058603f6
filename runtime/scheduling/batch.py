"""One turn of a guard's thread: a request, or several that are run together, and their answers."""

from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import GuardpassError, as_guardpass_error
from .queue import Entry


@dataclass(eq=False)
class Turn:
    """What one thread runs: an entry and its companions. `began` is in seconds of the scheduler's clock."""

    entries: list[Entry]
    began: float

    @property
    def tokens(self) -> int:
        """As estimated."""
        return sum(entry.tokens for entry in self.entries)

    @property
    def passes(self) -> int:
        """One after another, as estimated."""
        return max(entry.passes for entry in self.entries)

    @property
    def awaited(self) -> list[Entry]:
        """The entries that have no answer yet, and that nobody has given up."""
        return [entry for entry in self.entries if not (entry.ticket.done() or entry.ticket.stop.requested)]

    def run(self) -> bool:
        """Answer every entry of a turn; whether all of them ran to their end."""
        asked = [entry for entry in self.entries if entry.ticket.set_running_or_notify_cancel()]
        try:
            results = _results(asked, self.began)
        except Exception as error:
            results = [as_guardpass_error(error)] * len(asked)
        for entry, result in zip(asked, results, strict=True):
            if isinstance(result, GuardpassError):
                fail(entry, result)
            else:
                _settle(entry, result)
        return len(asked) == len(self.entries) and not any(isinstance(result, GuardpassError) for result in results)


def _results(asked: list[Entry], began: float) -> list[Any]:
    """What each entry comes to, or the GuardpassError it fails with. Raises what fails them all."""
    batches = [entry.batch for entry in asked if entry.batch]  # of all, or of none
    if not batches:
        return [entry.work(entry.ticket.stop, began - entry.since) for entry in asked]
    parts = [batch.parts(entry.ticket.stop, began - entry.since) for entry, batch in zip(asked, batches, strict=True)]
    answers = iter(batches[0].run([part for each in parts for part in each]))
    results: list[Any] = []
    for batch, each in zip(batches, parts, strict=True):
        answered = [next(answers) for _ in each]
        failed = next((answer for answer in answered if isinstance(answer, GuardpassError)), None)
        results.append(failed or batch.finish(answered))
    return results


def fail(entry: Entry, error: GuardpassError) -> None:
    """Answer an entry with its fallback, or the error; nothing happens where it was answered before."""
    entry.ticket.stop.request(error)
    with suppress(InvalidStateError):  # answered, or cancelled, a moment before
        try:
            entry.ticket.set_result(entry.fallback(error))
        except GuardpassError as failure:
            entry.ticket.set_exception(failure)


def _settle(entry: Entry, result: Any) -> None:
    with suppress(InvalidStateError):
        entry.ticket.set_result(result)
