"""The published guards as their own users drive them: prompts through transformers, answers as the cards write them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from guardpass.export import FAMILIES, Family
from guardpass.format.manifest import Mode

Fields = dict[str, str]
Answers = dict[str, Fields]  # every answer of the grammar, and the fields it decides


@dataclass(frozen=True)
class Case:
    """A guard: its twin, its family, and what it may answer."""

    twin: str
    family: str
    answers: Callable[[Mode], Answers]
    date: str | None = None
    generation_prompt: bool = True

    @property
    def row(self) -> Family:
        return next(row for row in FAMILIES if row.name == self.family)

    def prompts(self, tokenizer: Any, text: str, response: str | None) -> dict[str | None, tuple[str, list[int]]]:
        """For each policy asked by default (None where there are none) the prompt's text and ids."""
        return {name: self.prompt(tokenizer, text, response, name) for name in self.row.asked or (None,)}

    def prompt(self, tokenizer: Any, text: str, response: str | None, policy: str | None) -> tuple[str, list[int]]:
        prompt = self.row.modes["prompt" if response is None else "response"]
        named = {each.name: each for each in self.row.policies}
        given = {"prompt": text, "response": response}
        if policy:
            given |= {"title": named[policy].title, "description": named[policy].description}
        messages = [{"role": each.role, "content": each.text.format(**given)} for each in prompt.messages]
        if prompt.raw:
            raw: str = messages[0]["content"]
            return raw, tokenizer(raw)["input_ids"]
        if self.twin == "llama-guard-3-1b":
            messages = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
        shown = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=self.generation_prompt, **self.variables
        )
        return shown, tokenizer(shown, add_special_tokens=False)["input_ids"]

    @property
    def variables(self) -> dict[str, str]:
        """What pins the date of a template that transformers renders with today's."""
        return {"date_string": "26 Jul 2024"} if self.date else {}


def _lines(*lines: tuple[str, str, Iterable[str]]) -> Answers:
    fields = [field for field, _, _ in lines]
    return {
        "\n".join(f"{line}: {value}" for (_, line, _), value in zip(lines, values, strict=True)): dict(
            zip(fields, values, strict=True)
        )
        for values in product(*(each for _, _, each in lines))
    }


def _wildguard(*refusals: str, alone: str = "") -> Callable[[Mode], Answers]:
    """alone: what stands behind the request's line where there is no reply."""
    request = ("harmful_request", "Harmful request", ("yes", "no"))
    others = ("response_refusal", "Response refusal", refusals), ("harmful_response", "Harmful response", refusals)
    prompts = {answer + alone: fields for answer, fields in _lines(request).items()}
    return lambda mode: prompts if mode == "prompt" else _lines(request, *others)


def _llama_guard(last: int) -> Callable[[Mode], Answers]:
    codes = {f"\n\nunsafe\nS{n}": {"verdict": "unsafe", "category": f"S{n}"} for n in range(1, last + 1)}
    return lambda _mode: {"\n\nsafe": {"verdict": "safe"}, **codes}


def _two_codes(last: int, _mode: Mode) -> Answers:
    answers: Answers = {"\n\nsafe": {"verdict": "safe"}}
    for one, two in product(range(1, last + 1), range(last + 1)):
        fields = {"verdict": "unsafe", "category": f"S{one}", "second_category": f"S{two}" if two else "none"}
        answers[f"\n\nunsafe\nS{one}" + (f",S{two}" if two else "<|eot_id|>")] = fields
    return answers


def _qwen(mode: Mode) -> Answers:
    names = [
        "Violent",
        "Non-violent Illegal Acts",
        "Sexual Content or Sexual Acts",
        "PII",
        "Suicide & Self-Harm",
        "Unethical Acts",
        "Politically Sensitive Topics",
        "Copyright Violation",
        "Jailbreak",
    ]
    names = names[: 9 if mode == "prompt" else 8]
    unsafe = {
        f"Safety: {safety}\nCategories: {name}": {"safety": safety, "category": name}
        for safety, name in product(("Unsafe", "Controversial"), names)
    }
    if mode == "prompt":
        return {"Safety: Safe\nCategories: None": {"safety": "Safe"}, **unsafe}
    answers = {"Safety: Safe\nCategories: None": {"safety": "Safe"}, **unsafe}
    return {
        f"{answer}\nRefusal: {refusal}": {**fields, "refusal": refusal}
        for (answer, fields), refusal in product(answers.items(), ("Yes", "No"))
    }


def _words(field: str, *words: str) -> Callable[[Mode], Answers]:
    return lambda _mode: {word: {field: word.strip("<>")} for word in words}


# guards.md: the prompt that leaves the reply's place empty is answered by all three lines.
_NO_REPLY = "\nResponse refusal: n/a\nHarmful response: n/a"
_KANANA = ("<SAFE>", *(f"<UNSAFE-S{number}>" for number in range(1, 8)))
_UNSAFE_I = tuple(f"<UNSAFE-I{number}>" for number in range(1, 5))
_UNSAFE_A = ("<UNSAFE-A1>", "<UNSAFE-A2>")
CASES = (
    Case("kanana-safeguard-8b", "kanana-safeguard", _words("verdict", *_KANANA)),
    Case("wildguard-ko-3b", "wildguard-ko", _wildguard("yes", "no"), date="2024-07-26"),
    Case("shieldgemma-2b", "shieldgemma", _words("verdict", "Yes", "No")),
    Case("llama-guard-3-1b", "llama-guard-3-1b", _llama_guard(13), generation_prompt=False),
    Case("llama-guard-3-8b", "llama-guard-3", _llama_guard(14), generation_prompt=False),
    Case("llama-guard-3-8b", "llama-guard-3-two-codes", partial(_two_codes, 14), generation_prompt=False),
    Case("wildguard-7b", "wildguard", _wildguard("yes", "no", "n/a", alone=_NO_REPLY)),
    Case("qwen3guard-gen-0.6b", "qwen3guard-gen", _qwen, generation_prompt=False),
    Case("llama-safetyguard-binary", "llama-safetyguard-binary", _words("verdict", "<SAFE>", "<UNSAFE>")),
)
# The rows whose twins or grammars differ from those above in nothing that a tree could show.
EVERY = (
    *CASES,
    Case("kanana-safeguard-siren-8b", "kanana-safeguard-siren", _words("verdict", "<SAFE>", *_UNSAFE_I)),
    Case("kanana-safeguard-prompt-2.1b", "kanana-safeguard-prompt", _words("verdict", "<SAFE>", *_UNSAFE_A)),
    Case("llama-guard-3-1b", "llama-guard-3-1b-two-codes", partial(_two_codes, 13), generation_prompt=False),
)
