"""The last line of a run: what did not run, and why, so that a machine that lacks something does not look whole."""

from collections import Counter
from collections.abc import Iterable
from typing import Any


def closing_line(skipped: Iterable[Any], deselected: int) -> str:
    """Of the reports of skipped tests, and the number that -m or -k left out."""
    reasons = Counter(_reason(report) for report in skipped)
    parts = [f"{count} x {reason}" for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0]))]
    parts += [f"{deselected} x left out by -m or -k"] if deselected else []
    return f"Not run: {'; '.join(parts)}." if parts else "Not run: nothing, every test collected has run."


def _reason(report: Any) -> str:
    """What pytest.skip was told; a report of another kind as it stands."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ")
