"""The core: plans the passes for a text and decides from their scores. It has no engine, thread or clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import numpy.typing as npt

from .decide import Decider, Outcome, ScoreOptions, combined
from .errors import InputError
from .format.manifest import Manifest, Mode
from .format.tree import judged, pruned
from .normalize import normalized
from .plan import Pass, Planner
from .request import CheckOptions, Normalize, Request, Texts, check_names, check_normalize, mode_of
from .tokenizer import ContentTokenizer, checked
from .verdict import Milliseconds, Tokens, Verdict
from .windows import Limits, spans

_PREPARED = 64  # sets of policies whose planner and decider are cached


@dataclass(frozen=True)
class Plan:
    """Every pass of a request, all known before the first one runs, and the decider for their scores."""

    request: Request
    passes: tuple[Pass, ...]  # the windows of the text as it stands, then those of its plain form
    forms: tuple[int, ...]  # by pass, the index of the form that it reads
    windows: int  # of the form with the most windows
    truncated: bool
    suspicious_literals: tuple[str, ...]
    decider: Decider

    def decide(self, scores: npt.NDArray[np.float32]) -> tuple[Outcome, ...]:
        """One outcome for each policy, from the scores [1, S, V'] of one pass. Raises BadScores."""
        return self.decider.decide(scores[0], self.request.options)


@dataclass(frozen=True)
class Size:
    """The estimated passes and tokens of a request, for admission."""

    passes: int
    tokens: int


class Judge:
    """Plans and decides for one guard. Threads may share it."""

    def __init__(
        self, manifest: Manifest, tokenizer: ContentTokenizer, limits: Limits, normalize: Normalize = "on"
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.limits = limits
        self.normalize = normalize
        self._judging = {name: judged(manifest.labels, mode.tree) for name, mode in manifest.modes.items()}
        self._prepared: dict[tuple[Mode, tuple[str, ...]], tuple[Planner, Decider]] = {}

    def request(self, text: str, response: str | None = None, **options: Unpack[CheckOptions]) -> Request:
        """Check the text and the options of a call. Raises InputError."""
        check_names(options)
        mode = mode_of(response)
        texts: Texts = {"prompt": checked(text, "text")}
        if response is not None:
            texts["response"] = checked(response, "response")
        if mode not in self.manifest.modes:
            raise InputError(f"{self.manifest.name} judges {sorted(self.manifest.modes)}, and has no mode {mode!r}")
        spec = self.manifest.modes[mode]
        threshold = options.get("threshold")
        if threshold is None:
            threshold = {field: calibrated.score for field, calibrated in spec.thresholds.items()} or None
        score_options = ScoreOptions(
            threshold,
            options.get("strict", True),
            options.get("temperature", 1.0),
            options.get("alpha", 0.0),
        )
        score_options.check(self._judging[mode])
        normalize = options.get("normalize")
        if normalize is None:
            normalize = self.normalize
        check_normalize(normalize)
        plain = texts if normalize == "off" else {role: normalized(content) for role, content in texts.items()}
        return Request(
            mode=mode,
            forms=(texts,) if plain == texts else (texts, plain),
            policies=self.policies(mode, options.get("policies")),
            options=score_options,
            tree=len(spec.tree.tokens),
        )

    def size(self, request: Request) -> Size:
        """Estimate a request. Neighbouring windows overlap by an eighth."""
        max_windows = self.limits.windows if self.limits.policy == "windows" else 1
        passes = tokens = 0
        for form_tokens in request.form_tokens:
            windows = min(max(-(-form_tokens * 8 // (self.limits.tokens * 7)), 1), max_windows)
            passes += windows
            tokens += min(form_tokens, self.limits.tokens * windows)
        return Size(passes, tokens)

    def plan(self, request: Request) -> Plan:
        """Tokenize the text and lay it out in passes. Raises BadText (TextTooLong included)."""
        planner, decider = self.prepared(request.mode, request.policies)
        spec = self.manifest.modes[request.mode]
        covered: list[list[list[int]]] = []
        truncated = False
        for texts in request.forms:
            windows, cut = spans(texts, spec, planner, self.tokenizer, self.limits)
            truncated |= cut
            if windows not in covered:  # some tokenizers normalize text themselves: equal ids are judged once
                covered.append(windows)
        literals = dict.fromkeys(
            literal
            for texts in request.forms
            for literal in self.tokenizer.suspicious_literals("\n".join(texts.values()))
        )
        return Plan(
            request=request,
            passes=tuple(planner.plan(span) for windows in covered for span in windows),
            forms=tuple(form for form, windows in enumerate(covered) for _ in windows),
            windows=max(map(len, covered)),
            truncated=truncated,
            suspicious_literals=tuple(literals),
            decider=decider,
        )

    def verdict(
        self, plan: Plan, outcomes: Sequence[tuple[Outcome, ...]], ms: Milliseconds, *, reused: int = 0
    ) -> Verdict:
        """The verdict from the outcomes of each pass; the worst window of the worse form counts.

        reused: span tokens whose keys and values a session reused.
        """
        prefix = sum(len(item.prefix_columns) for item in plan.passes)
        run = sum(item.tokens.size for item in plan.passes)
        return combined(
            outcomes,
            mode=plan.request.mode,
            windows=plan.windows,
            truncated=plan.truncated,
            normalized=len(plan.request.forms) > 1,
            suspicious_literals=plan.suspicious_literals,
            tokens=Tokens(prefix + reused, run - reused),
            ms=ms,
        )

    def policies(self, mode: Mode, names: object) -> tuple[str, ...]:
        """The policies to judge, in the order of the tree. Raises InputError for unknown names."""
        spec = self.manifest.modes[mode]
        roots = [spec.tree.slots[root].field for root in spec.tree.roots]
        if names is None:  # the default policies, or the one root
            return tuple(root for root in roots if root in spec.asked) or tuple(roots)
        wanted = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
        unknown = [policy for policy in wanted if policy not in roots]
        if unknown or not wanted or not spec.asked:
            has = f"the policies {roots}" if spec.asked else "no separate policies"
            raise InputError(f"policies: found {wanted}, and {self.manifest.name} has {has}; name one or more of them")
        return tuple(root for root in roots if root in wanted)

    def named_policies(self, mode: Mode) -> tuple[str, ...]:
        """The policies of a mode that a request may name; empty where the tree has one root."""
        spec = self.manifest.modes[mode]
        return tuple(spec.tree.slots[root].field for root in spec.tree.roots) if spec.asked else ()

    def prepared(self, mode: Mode, policies: tuple[str, ...]) -> tuple[Planner, Decider]:
        """The planner and the decider of a mode, for the branches of these policies."""
        pair = self._prepared.get((mode, policies))
        if pair is None:
            spec = self.manifest.modes[mode]
            tree = pruned(spec.tree, policies)
            pair = Planner(self.manifest, spec, tree, self.tokenizer), Decider(self.manifest, spec, tree)
            if len(self._prepared) < _PREPARED:
                self._prepared[mode, policies] = pair
        return pair
