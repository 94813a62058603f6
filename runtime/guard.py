"""The main path: a guard directory in, verdicts out."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from .content import ContentTokenizer, checked
from .decide import Decider, Outcome, Reading
from .engines import open_engine
from .errors import InputError
from .integrity import open_guard
from .manifest import Device, Manifest, Mode, Role
from .passes import Planner
from .tree import judged, pruned
from .verdict import Field, Milliseconds, Tokens, Verdict
from .windows import Limits, LongText, spans

# The CPU attention operator holds heads x T x T scores: half a gigabyte for 32 heads at this length.
DEFAULT_MAX_TOKENS = 2048
DEFAULT_MAX_WINDOWS = 16
_KNOWN = 64  # sets of policies kept prepared


class Guard:
    """A guard, opened. Share one between threads: passes run side by side, llama.cpp's in turn, under a lock."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        threads: int | None,
        device: Device | None,
        max_tokens: int | None,
        max_windows: int,
        long_text: LongText,
    ) -> None:
        """For `Guard.load`, which proves what is passed here."""
        self.manifest = manifest
        self._tokenizer = ContentTokenizer.of(directory, manifest)
        self._judged = {name: judged(manifest.labels, mode.tree) for name, mode in manifest.modes.items()}
        self._known: dict[tuple[Mode, tuple[str, ...]], tuple[Planner, Decider]] = {}
        longest = max_tokens or min(manifest.context, DEFAULT_MAX_TOKENS)
        self._engine = open_engine(directory, manifest, threads=threads, max_tokens=longest, device=device)
        self._limits = Limits(longest, max_windows, long_text)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: Device | None = None,
        verify: bool = True,
        max_tokens: int | None = None,
        max_windows: int = DEFAULT_MAX_WINDOWS,
        long_text: LongText = "windows",
    ) -> "Guard":
        """Open the guard directory at `path`. Nothing is downloaded.

        threads: of the engine; None takes the cores this process may use.
        device: where a GGUF guard runs, "cpu" (the default) or "cuda".
        verify: hash every file against guard.json first; False takes files over 64 MiB by their size.
        max_tokens: tokens of one pass, prefix and tree included, at most the checkpoint's context (default: that, or
        2048 if less).
        long_text: what to do with text beyond it: judge overlapping "windows" (the worst decides), "refuse",
        or "truncate" (the verdict says so). max_windows: more windows than this are refused.

        Raises GuardError for a guard that is not intact, InputError for options out of range,
        MissingDependency where the engine is not installed, EngineError where it cannot open the model.
        """
        directory = Path(path)
        manifest = open_guard(directory, verify=verify)
        _check_count("max_tokens", max_tokens, manifest.context)
        _check_count("max_windows", max_windows, 1 << 20)
        _check_count("threads", threads, 1 << 10)
        if long_text not in get_args(LongText):
            raise InputError(f"long_text is {long_text!r}, expected one of: {', '.join(get_args(LongText))}")
        if device not in (None, *get_args(Device)):
            raise InputError(f"device is {device!r}, expected one of: {', '.join(get_args(Device))}")
        return cls(
            directory, manifest, threads=threads, device=device, max_tokens=max_tokens, max_windows=max_windows,
            long_text=long_text,
        )  # fmt: skip

    def check(
        self,
        text: str,
        response: str | None = None,
        *,
        policies: Iterable[str] | None = None,
        threshold: float | Mapping[str, float] | None = None,
        strict: bool = True,
        temperature: float = 1.0,
        alpha: float = 0.0,
    ) -> Verdict:
        """Judge a user's text, or (mode response) an assistant's reply to it.

        policies: of a guard that has several, those to judge (default: the manifest's `asked`); no others are run.
        threshold: unsafe from this score on; a mapping gives one to fields by name, and {} goes by argmax alone.
        By default that of the manifest, where `guardpass calibrate` chose one, else argmax.
        strict: controversial answers count as unsafe. temperature, alpha: of the score, see `decide.Reading`.
        Raises InputError (TextTooLong among them) and EngineError; neither ever means safe.
        """
        start = time.perf_counter()
        mode: Mode = "prompt" if response is None else "response"
        texts: dict[Role, str] = {"prompt": checked(text, "text")}
        if response is not None:
            texts["response"] = checked(response, "response")
        if mode not in self.manifest.modes:
            raise InputError(f"{self.manifest.name} judges {sorted(self.manifest.modes)}, and has no mode {mode!r}")
        planner, decider = self._prepared(mode, self._policies(mode, policies))
        spec = self.manifest.modes[mode]
        calibrated = {field: each.score for field, each in spec.thresholds.items()} or None
        reading = Reading(calibrated if threshold is None else threshold, strict, temperature, alpha)
        reading.check(self._judged[mode])

        covered, truncated = spans(texts, spec, planner, self._tokenizer, self._limits)
        literals = self._tokenizer.suspicious_literals("\n".join(texts.values()))
        tokenized = time.perf_counter()
        windows: list[tuple[Outcome, ...]] = []
        reused = ran = 0
        for span in covered:
            request = planner.plan(span)
            windows.append(decider.decide(self._engine.run(request)[0], reading))
            reused, ran = reused + len(request.chain), ran + request.tokens.size
        ended = time.perf_counter()

        # Each policy by the window where it fares worst; the worst policy speaks for the text.
        outcomes = [max(found, key=Outcome.severity) for found in zip(*windows, strict=True)]
        worst = max(outcomes, key=Outcome.severity)
        fields: dict[str, Field | None] = {}
        for outcome in outcomes:
            fields |= outcome.fields
        return Verdict(
            safe=not worst.flagged,
            label=worst.label.name,
            field=worst.field,
            categories=tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.categories)),
            score=worst.score,
            margin=worst.margin,
            fields=fields,
            mode=mode,
            windows=len(covered),
            truncated=truncated,
            suspicious_literals=literals,
            tokens=Tokens(reused, ran),
            ms=Milliseconds(
                tokenize=(tokenized - start) * 1e3,
                run=(ended - tokenized) * 1e3,
                total=(time.perf_counter() - start) * 1e3,
            ),
        )

    def check_many(self, items: Iterable[str | tuple[str, str | None]], **options: Any) -> Iterator[Verdict]:
        """Verdicts in the order of `items`, each a text or a pair (text, response), as they are drawn.

        options: those of `check`. One request is one pass: batching gains nothing on a CPU and would let requests
        touch each other's activation scales. An item that cannot be judged raises at its turn and ends the iteration.
        """
        for item in items:
            pair = item if isinstance(item, tuple) else (item, None)
            if len(pair) != 2:
                raise InputError(f"an item has {len(pair)} parts, expected a text or a pair (text, response)")
            yield self.check(*pair, **options)

    def _policies(self, mode: Mode, asked: Iterable[str] | None) -> tuple[str, ...]:
        """The roots to walk from, in the order of the tree."""
        spec = self.manifest.modes[mode]
        roots = [spec.tree.slots[root].field for root in spec.tree.roots]
        if asked is None:  # all, where there is but one root
            return tuple(root for root in roots if root in spec.asked) or tuple(roots)
        wanted = list(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked]
        unknown = [policy for policy in wanted if policy not in roots]
        if unknown or not wanted or not spec.asked:
            has = f"the policies {roots}" if spec.asked else "no separate policies"
            raise InputError(f"policies: found {wanted}, and {self.manifest.name} has {has}; name one or more of them")
        return tuple(root for root in roots if root in wanted)

    def _prepared(self, mode: Mode, policies: tuple[str, ...]) -> tuple[Planner, Decider]:
        """What plans and reads a mode's passes with the branches of these policies."""
        known = self._known.get((mode, policies))
        if known is None:
            spec = self.manifest.modes[mode]
            tree = pruned(spec.tree, policies)
            known = Planner(self.manifest, spec, tree, self._tokenizer), Decider(self.manifest, spec, tree)
            if len(self._known) < _KNOWN:
                self._known[mode, policies] = known
        return known


def _check_count(name: str, value: int | None, most: int) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise InputError(f"{name} is {value!r}, expected a whole number from 1 to {most}")
