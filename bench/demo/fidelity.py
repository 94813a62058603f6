"""How the demo guard does on sentences it was not trained on, and how far a precision moves it."""

from collections.abc import Sequence
from dataclasses import dataclass

from guardpass import Guard, Verdict
from guardpass.export.choices import EngineChoice
from guardpass.format.manifest import Quant

from .data import Example, blind_set, held_out_set
from .run import THRESHOLD, demo_guard


@dataclass(frozen=True)
class Fidelity:
    """A guard on a set of conversations: shares, and the change of margins against the fp32 guard."""

    set: str
    count: int
    binary: float  # safe or unsafe as labelled, by the demo's threshold
    argmax: float  # the same by argmax
    exact: float  # the very label
    same: float  # the label that the fp32 guard gives
    margin_change: float  # largest

    def __str__(self) -> str:
        return (
            f"{self.set}: {self.count} conversations, safe or unsafe right {self.binary:.1%} at threshold {THRESHOLD} "
            f"({self.argmax:.1%} by argmax), label right {self.exact:.1%}, same label as fp32 {self.same:.1%}, "
            f"largest margin change {self.margin_change:.2f}"
        )


def fidelity(quant: Quant, engine: EngineChoice = "onnx") -> list[Fidelity]:
    """The demo guard at a precision, on the held-out and on the blind set."""
    with demo_guard(quant, engine) as guard, demo_guard("fp32") as reference:
        return [
            _compare(name, examples, _judge(guard, examples), _judge(reference, examples))
            for name, examples in (("held-out", held_out_set()), ("blind", blind_set()))
        ]


def _compare(
    name: str, examples: Sequence[Example], found: Sequence[Verdict], reference: Sequence[Verdict]
) -> Fidelity:
    labels = [example.label.strip("<>") for example in examples]
    count = len(examples)
    return Fidelity(
        set=name,
        count=count,
        binary=sum((v.score < THRESHOLD) == (label == "SAFE") for v, label in zip(found, labels, strict=True)) / count,
        argmax=sum(v.safe == (label == "SAFE") for v, label in zip(found, labels, strict=True)) / count,
        exact=sum(v.label == label for v, label in zip(found, labels, strict=True)) / count,
        same=sum(v.label == r.label for v, r in zip(found, reference, strict=True)) / count,
        margin_change=max(abs(v.margin - r.margin) for v, r in zip(found, reference, strict=True)),
    )


def _judge(guard: Guard, examples: Sequence[Example]) -> list[Verdict]:
    return list(guard.check_many((example.user, example.assistant or None) for example in examples))
