"""The last line of a run: what did not run, and why, so that a machine that lacks something does not look whole."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def closing_line(skipped: Iterable[Any], left_out: Mapping[str, str]) -> str:
    """Of the reports of skipped tests, and the options that leave out others (which xdist's workers do not count)."""
    reasons = Counter(_reason(report) for report in skipped)
    parts = [f"{count} x {reason}" for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0]))]
    parts += [f"what {option} {value!r} leaves out" for option, value in left_out.items() if value]
    return f"Not run: {'; '.join(parts)}." if parts else "Not run: nothing, every test has run."


def _reason(report: Any) -> str:
    """What pytest.skip was told; a report of another kind as it stands."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ")
