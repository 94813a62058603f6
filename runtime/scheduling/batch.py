"""One turn of a guard's thread: runs one request, or a batch, and sets the results."""

from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import GuardpassError, as_guardpass_error
from .queue import Entry


@dataclass(eq=False)
class Turn:
    """An entry and its companions, which one thread runs together. began: seconds of the scheduler's clock."""

    entries: list[Entry]
    began: float

    @property
    def tokens(self) -> int:
        """The estimated tokens of all entries."""
        return sum(entry.tokens for entry in self.entries)

    @property
    def passes(self) -> int:
        """The estimated passes in sequence."""
        return max(entry.passes for entry in self.entries)

    @property
    def awaited(self) -> list[Entry]:
        """The entries that are neither answered nor stopped."""
        return [entry for entry in self.entries if not (entry.ticket.done() or entry.ticket.stop.requested)]

    def run(self) -> bool:
        """Run the entries and set their results; returns whether every entry ran to its end without an error."""
        active = [entry for entry in self.entries if entry.ticket.set_running_or_notify_cancel()]
        try:
            results = _results(active, self.began)
        except Exception as error:
            results = [as_guardpass_error(error)] * len(active)
        for entry, result in zip(active, results, strict=True):
            if isinstance(result, GuardpassError):
                fail(entry, result)
            else:
                _settle(entry, result)
        return len(active) == len(self.entries) and not any(isinstance(result, GuardpassError) for result in results)


def _results(entries: list[Entry], began: float) -> list[Any]:
    """The result or the GuardpassError of each entry. Raises an error that fails all of them."""
    batches = [entry.batch for entry in entries if entry.batch]  # every entry has one, or none has
    if not batches:
        return [entry.work(entry.ticket.stop, began - entry.since) for entry in entries]
    parts = [batch.parts(entry.ticket.stop, began - entry.since) for entry, batch in zip(entries, batches, strict=True)]
    answers = iter(batches[0].run([part for entry_parts in parts for part in entry_parts]))
    results: list[Any] = []
    for batch, entry_parts in zip(batches, parts, strict=True):
        entry_answers = [next(answers) for _ in entry_parts]
        error = next((answer for answer in entry_answers if isinstance(answer, GuardpassError)), None)
        results.append(error or batch.finish(entry_answers))
    return results


def fail(entry: Entry, error: GuardpassError) -> None:
    """Stop an entry and answer it with its fallback or the error, unless it has an answer."""
    entry.ticket.stop.request(error)
    with suppress(InvalidStateError):  # another thread answered or cancelled it
        try:
            entry.ticket.set_result(entry.fallback(error))
        except GuardpassError as failure:
            entry.ticket.set_exception(failure)


def _settle(entry: Entry, result: Any) -> None:
    with suppress(InvalidStateError):
        entry.ticket.set_result(result)
