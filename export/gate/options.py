"""What the gate judges and how many flips it allows."""

from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from guardpass.errors import InputError
from guardpass.format.manifest import Quant, Ungated

from .texts import Texts, built_in, read_texts

# One built-in text in sixteen is meant to be close, and of a long prompt maybe 60 fit, where one flip is 1.6 %: what is
# allowed is at least twice what was measured (docs/quantization.md).
_FOUR_BITS: frozenset[Quant] = frozenset({"int4", "q4_k_m", "q4_0", "iq4_nl"})
_WHOLE: frozenset[Quant] = frozenset({"fp32", "f32"})


@dataclass(frozen=True)
class GateOptions:
    """The texts and the largest share of flipped verdicts; without texts, why there is no gate."""

    texts: Texts | None
    max_flip_rate: float
    skipped: Ungated | None

    @classmethod
    def of(cls, gate: bool, texts: Path | None, max_flip_rate: float | None, quant: Quant) -> "GateOptions":
        """The caller's options, checked. Raises InputError."""
        whole = quant in _WHOLE
        if whole or not gate:
            why = f"the gate does not run on {quant}, which is not quantized" if gate else "the gate is switched off"
            for name, value in (("gate_texts", texts), ("max_flip_rate", max_flip_rate)):
                if value is not None:
                    raise InputError(f"{name} is {value}, but {why}; leave {name} out")
            return cls(None, 0, "unquantized" if whole else "asked")
        if max_flip_rate is None:
            max_flip_rate = 0.05 if quant in _FOUR_BITS else 0.02
        if isinstance(max_flip_rate, bool) or not isinstance(max_flip_rate, Real) or not 0 <= max_flip_rate <= 1:
            raise InputError(f"max_flip_rate is {max_flip_rate!r}, expected a share from 0 to 1")
        return cls(read_texts(texts) if texts else built_in("gate"), float(max_flip_rate), None)
