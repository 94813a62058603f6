"""The gate: does the quantized guard judge as the checkpoint's own weights do, in fp32, on the same texts?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guardpass.decide import Decider, Outcome, ScoreOptions
from guardpass.errors import GateError, InputError
from guardpass.format.manifest import Device, Flip, Gate, Manifest, Mode
from guardpass.guard import DEFAULT_MAX_TOKENS
from guardpass.judge import Judge
from guardpass.plan import Pass
from guardpass.tokenizer import ContentTokenizer
from guardpass.windows import Limits

from .texts import Text, Texts

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One text, ready to be judged in a mode."""

    text: Text
    mode: Mode
    request: Pass
    decider: Decider


def cases(texts: Texts, manifest: Manifest, directory: Path, most: int) -> list[Case]:
    """A case for each text: in mode response where it has a response and the guard that mode, else in mode prompt.

    Of built-in texts those that fit a pass, spread evenly, within about `most` tokens; of a caller's texts all.
    Raises InputError where a caller's text does not fit, where they take too much memory, or where no text is left.
    """
    fitting: list[Case] = []
    tokens = 0
    for case in _cases(texts, manifest, ContentTokenizer.of(directory, manifest)):
        fitting.append(case)
        tokens += case.request.tokens.size
        if not texts.built_in and tokens > most:
            raise InputError(
                f"{texts.source}: the first {len(fitting)} texts take {tokens} tokens, expected at most {most} in all, "
                "as memory holds no more; use fewer texts"
            )
    if not fitting:
        raise InputError(
            f"{texts.source}: no text fits the modes {sorted(manifest.modes)} and a context of {manifest.context}; "
            "use other --gate-texts, or --no-gate"
        )
    count = min(len(fitting), max(1, len(fitting) * most // tokens))
    return [fitting[number * len(fitting) // count] for number in range(count)]


def passes(texts: Texts, manifest: Manifest, directory: Path, most: int) -> list[Pass]:
    """The first passes that fit, of at most `most` tokens, for calibration; maybe none."""
    fitting: list[Pass] = []
    tokens = 0
    for case in _cases(texts, manifest, ContentTokenizer.of(directory, manifest)):
        tokens += case.request.tokens.size
        if tokens > most:
            break
        fitting.append(case.request)
    return fitting


def _cases(texts: Texts, manifest: Manifest, tokenizer: ContentTokenizer) -> Iterator[Case]:
    limits = Limits(min(manifest.context, DEFAULT_MAX_TOKENS), 1, "refuse")
    judge = Judge(manifest, tokenizer, limits, normalize="off")  # the reference gets each text as it stands too
    for text in texts.items:
        response = text.response if "response" in manifest.modes else None
        try:
            plan = judge.plan(judge.request(text.text, response))
        except InputError as error:
            if texts.built_in:
                continue
            raise InputError(f"{texts.source} line {text.line}: {error}") from None
        (request,) = plan.passes
        yield Case(text, plan.request.mode, request, plan.decider)


def judge(
    cases: Sequence[Case],
    reference: Sequence[Scores],
    scores: Sequence[Scores],
    texts: Texts,
    max_flip_rate: float,
    device: Device = "cpu",
) -> Gate:
    """Compare the guard's scores with the checkpoint's, [S, V'] for each case; returns what guard.json says of it.

    device: what ran the guard.

    Raises GateError where more verdicts flip than `max_flip_rate`, and EngineError for scores that are not finite.
    """
    flips, changes, distances = [], [], []
    for case, expected, actual in zip(cases, reference, scores, strict=True):
        before, after = _worst(case.decider, expected), _worst(case.decider, actual)
        changes.append(abs(before.score - after.score))
        distances += [_kl(expected[slot, columns], actual[slot, columns]) for slot, columns in case.decider.columns()]
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
            "or raise --max-flip-rate to accept so many"
        )
    return gate


def _worst(decider: Decider, scores: Scores) -> Outcome:
    return max(decider.decide(scores, ScoreOptions()), key=lambda outcome: (outcome.flagged, -outcome.margin))


def _kl(expected: Scores, actual: Scores) -> float:
    logs = [x - np.logaddexp.reduce(x) for x in (expected.astype(np.float64), actual.astype(np.float64))]
    # Rounding may leave it just below zero.
    return max(0.0, float((np.exp(logs[0]) * (logs[0] - logs[1])).sum()))
