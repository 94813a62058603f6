"""The gate: does the quantized guard judge as the checkpoint's own weights do, in fp32, on the same texts?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guardpass.content import ContentTokenizer
from guardpass.decide import Decider, Outcome, Reading
from guardpass.errors import GateError, InputError
from guardpass.guard import DEFAULT_MAX_TOKENS
from guardpass.manifest import Device, Flip, Gate, Manifest, Mode, Role
from guardpass.passes import Pass, Planner
from guardpass.tree import pruned
from guardpass.windows import Limits, spans

from .texts import Text, Texts

# One built-in text in sixteen is meant to be close, and of a long prompt maybe 60 fit, where one flip is 1.6 %: what is
# allowed is at least twice what was measured (docs/quantization.md).
_FOUR_BITS = frozenset({"int4", "q4_k_m", "q4_0", "iq4_nl"})

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One text, ready to be judged in a mode."""

    text: Text
    mode: Mode
    request: Pass
    decider: Decider


def default_flip_rate(quant: str) -> float:
    """The share of verdicts that may flip where the caller names none."""
    return 0.05 if quant in _FOUR_BITS else 0.02


def cases(texts: Texts, manifest: Manifest, directory: Path, most: int) -> list[Case]:
    """What is judged: a text with a response in mode response, where the guard has that, else the text in mode prompt.

    Of built-in texts those that fit a pass, spread evenly, within about `most` tokens; a caller's are judged all.
    Raises InputError where one of those does not fit, or all are more than can be held, or none is left.
    """
    found, tokens = [], 0
    for case in _cases(texts, manifest, ContentTokenizer.of(directory, manifest)):
        found.append(case)
        tokens += case.request.tokens.size
        if not texts.built_in and tokens > most:
            raise InputError(
                f"{texts.source}: the first {len(found)} texts take {tokens} tokens, expected at most {most} in all, "
                "by the memory they take; give fewer"
            )
    if not found:
        raise InputError(
            f"{texts.source}: found no text that fits the modes {sorted(manifest.modes)} and a context of "
            f"{manifest.context}; give others by --gate-texts, or --no-gate"
        )
    kept = min(len(found), max(1, len(found) * most // tokens))
    return [found[number * len(found) // kept] for number in range(kept)]


def passes(texts: Texts, manifest: Manifest, directory: Path, most: int) -> list[Pass]:
    """The first passes of texts that fit, for calibration; maybe none."""
    found, tokens = [], 0
    for case in _cases(texts, manifest, ContentTokenizer.of(directory, manifest)):
        tokens += case.request.tokens.size
        if tokens > most:
            break
        found.append(case.request)
    return found


def _cases(texts: Texts, manifest: Manifest, tokenizer: ContentTokenizer) -> Iterator[Case]:
    limits = Limits(min(manifest.context, DEFAULT_MAX_TOKENS), 1, "refuse")
    modes: dict[str, tuple[Planner, Decider]] = {}
    for name, spec in manifest.modes.items():
        tree = pruned(spec.tree, spec.asked or [spec.tree.slots[root].field for root in spec.tree.roots])
        modes[name] = Planner(manifest, spec, tree, tokenizer), Decider(manifest, spec, tree)
    for text in texts.items:
        given: dict[Role, str] = {"prompt": text.text}
        mode: Mode = "prompt"
        if text.response is not None and "response" in modes:
            mode, given["response"] = "response", text.response
        try:
            if mode not in modes:
                raise InputError(f"the guard judges {sorted(modes)}, and the line has no response")
            planner, decider = modes[mode]
            ((span,), _) = spans(given, manifest.modes[mode], planner, tokenizer, limits)
        except InputError as error:
            if texts.built_in:
                continue
            raise InputError(f"{texts.source} line {text.line}: {error}") from None
        yield Case(text, mode, planner.plan(span), decider)


def judge(
    cases: Sequence[Case],
    reference: Sequence[Scores],
    found: Sequence[Scores],
    texts: Texts,
    max_flip_rate: float,
    device: Device = "cpu",
) -> Gate:
    """Scores [S, V'] of each case, of the checkpoint's weights and of the guard, to what guard.json says of them.

    device: what ran the guard.

    Raises GateError for more flips than allowed, and EngineError for scores that are not finite.
    """
    flips, changes, distances = [], [], []
    for case, expected, got in zip(cases, reference, found, strict=True):
        before, after = (_worst(case.decider, scores) for scores in (expected, got))
        changes.append(abs(before.score - after.score))
        distances += [_kl(expected[slot, columns], got[slot, columns]) for slot, columns in case.decider.columns()]
        if before.flagged != after.flagged:
            flips.append(Flip(case.text.sha256, case.mode, before.field, before.margin, after.margin))
    gate = Gate(
        texts=len(cases),
        source=texts.source,
        sha256=texts.sha256,
        agreement=1 - len(flips) / len(cases),
        flips=tuple(flips),
        mean_score_change=float(np.mean(changes)),
        worst_score_change=float(max(changes)),
        kl=float(np.mean(distances)),
        max_flip_rate=float(max_flip_rate),
        device=device,
    )
    if len(flips) / len(cases) > max_flip_rate:
        widest = max(abs(flip.reference) for flip in flips)
        raise GateError(
            f"the quantized guard judges {len(flips)} of {len(cases)} texts otherwise than the checkpoint (margins up "
            f"to {widest:.2f}, label KL {gate.kl:.4f}), expected at most {max_flip_rate:.1%}; choose another --quant, "
            "or raise --max-flip-rate if so many flips will do"
        )
    return gate


def _worst(decider: Decider, scores: Scores) -> Outcome:
    return max(decider.decide(scores, Reading()), key=lambda outcome: (outcome.flagged, -outcome.margin))


def _kl(expected: Scores, found: Scores) -> float:
    logs = [x - np.logaddexp.reduce(x) for x in (expected.astype(np.float64), found.astype(np.float64))]
    # Rounding may leave a hair below zero.
    return max(0.0, float((np.exp(logs[0]) * (logs[0] - logs[1])).sum()))
