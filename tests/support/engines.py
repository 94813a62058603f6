"""A guard's engine, looked at or replaced: no public attribute leads to it, and no other file of the tests knows it."""

from typing import TypeVar

from guardpass import Guard
from guardpass.engines.base import Engine

AnyEngine = TypeVar("AnyEngine", bound=Engine)


def engine_of(guard: Guard) -> Engine:
    return guard._engine


def put_engine(guard: Guard, engine: AnyEngine) -> AnyEngine:
    """The guard runs its passes on `engine` from now on."""
    guard._engine = engine
    return engine
