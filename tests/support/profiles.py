"""How often a test repeats what it tries: GUARDPASS_TESTS is quick, ci or nightly (make quick, test and nightly)."""

import math
import os
from typing import Any

from hypothesis import HealthCheck, is_hypothesis_test, settings

_SHARES = {"quick": 0.1, "ci": 0.3, "nightly": 1.0}
PROFILE = os.environ.get("GUARDPASS_TESTS", "ci")
if PROFILE not in _SHARES:
    raise SystemExit(f"GUARDPASS_TESTS is {PROFILE!r}, expected one of: {', '.join(_SHARES)}")


def scaled(count: int, least: int = 10) -> int:
    """Of `count` examples, which `make nightly` tries all, those that this profile tries."""
    return max(min(least, count), math.ceil(count * _SHARES[PROFILE]))


def load_hypothesis() -> None:
    """Examples are the same in every run, and a slow machine is no failure."""
    settings.register_profile(
        "guardpass",
        deadline=None,
        derandomize=True,
        max_examples=scaled(100),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    settings.load_profile("guardpass")


def scale(test: Any) -> None:
    """Fewer examples of a test under @given, where it says how many. No public API changes what a decorator has set."""
    if is_hypothesis_test(test):
        own = getattr(test, "_hypothesis_internal_use_settings", settings.default)
        if own.max_examples != settings.default.max_examples:
            test._hypothesis_internal_use_settings = settings(own, max_examples=scaled(own.max_examples))
