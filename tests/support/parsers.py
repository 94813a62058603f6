"""What clients read out of a guard's answer: parsers of cards and libraries, by what they do, in our own words."""

import json
import re
from collections.abc import Callable

from .published import Fields

_QWEN_CATEGORIES = (
    "Violent|Non-violent Illegal Acts|Sexual Content or Sexual Acts|PII|Suicide & Self-Harm|Unethical Acts|"
    "Politically Sensitive Topics|Copyright Violation|Jailbreak|None"
)


def qwen3guard(text: str) -> Fields:
    """huggingface.co/Qwen/Qwen3Guard-Gen-0.6B, its card: a search for each line's value."""
    safety = re.search("Safety: (Safe|Unsafe|Controversial)", text)
    categories = re.findall(f"({_QWEN_CATEGORIES})", text)
    refusal = re.search("Refusal: (Yes|No)", text)
    assert safety
    assert len(categories) == 1
    fields = {"safety": safety[1]} | ({"category": categories[0]} if categories[0] != "None" else {})
    return fields | ({"refusal": refusal[1]} if refusal else {})


def llama_guard(text: str) -> Fields:
    """github.com/meta-llama/PurpleLlama, MODEL_CARD.md: a line safe or unsafe, then a list of codes."""
    verdict, *codes = text.strip().split("\n")
    assert verdict in ("safe", "unsafe")
    assert len(codes) == (verdict == "unsafe")
    listed = codes[0].split(",") if codes else []
    assert all(re.fullmatch(r"S\d+", code) for code in listed)
    return {"verdict": verdict} | dict(zip(("category", "second_category"), listed, strict=False))


def wildguard(text: str) -> Fields:
    """github.com/allenai/wildguard: three lines, whatever was asked."""
    values = re.fullmatch(r".*:(.*)\n.*:(.*)\n.*:(.*)", text)
    assert values
    names = ("harmful_request", "response_refusal", "harmful_response")
    return dict(zip(names, (value.strip() for value in values.groups()), strict=True))


def wildguard_ko(text: str) -> Fields:
    """huggingface.co/iknow-lab/llama-3.2-3B-wildguard-ko-2410: lines, as many as were asked for."""
    lines = (line.split(": ") for line in text.split("\n"))
    return {name.lower().replace(" ", "_"): value for name, value in lines}


def first_word(text: str) -> Fields:
    """ShieldGemma's prompt: the answer must start with Yes or No."""
    assert text.startswith(("Yes", "No"))
    return {"verdict": "Yes" if text.startswith("Yes") else "No"}


def one_token(text: str) -> Fields:
    """Kanana's and SafetyGuard's cards: the first token, in brackets, is the verdict."""
    found = re.fullmatch(r"<(SAFE|UNSAFE(?:-[A-Z]\d)?)>", text)
    assert found
    return {"verdict": found[1]}


CARDS: dict[str, Callable[[str], Fields]] = {
    "kanana-safeguard": one_token,
    "kanana-safeguard-siren": one_token,
    "kanana-safeguard-prompt": one_token,
    "llama-safetyguard-binary": one_token,
    "wildguard": wildguard,
    "wildguard-ko": wildguard_ko,
    "shieldgemma": first_word,
    "llama-guard-3": llama_guard,
    "llama-guard-3-1b": llama_guard,
    "llama-guard-3-two-codes": llama_guard,
    "llama-guard-3-1b-two-codes": llama_guard,
    "qwen3guard-gen": qwen3guard,
}


def nemo_llama_guard(text: str) -> bool:
    """NeMo Guardrails, library/llama_guard/actions.py, parse_llama_guard_response: whether the text is allowed."""
    # What begins otherwise, "unsafe" or anything, is blocked.
    return text.lower().strip().startswith("safe")


def nemo_is_content_safe(text: str) -> bool:
    """NeMo Guardrails, llm/output_parsers.py, is_content_safe: the first two words, in this order of words."""
    words = re.sub(r"\W+", " ", text.lower().strip()).split(" ")[:2]
    for word, safe in (("safe", True), ("unsafe", False), ("yes", False), ("no", True)):
        if word in words:
            return safe
    return False


def nemoguard(key: str) -> Callable[[str], bool]:
    """NeMo Guardrails, llm/output_parsers.py, nemoguard_parse_prompt_safety and ..._response_safety."""

    def parse(text: str) -> bool:
        try:
            return str(json.loads(text)[key]).lower() == "safe"
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("no NemoGuard answer") from error

    return parse


def llama_stack(text: str) -> bool:
    """llama-stack, providers/inline/safety/llama_guard: safe, or unsafe and its list on the second line."""
    if text.strip() == "safe":
        return True
    if not re.match(r"unsafe\n.+$", text.strip()):
        raise ValueError("unexpected response")
    return False


# In the order of the columns of docs/services.md.
LIBRARIES: tuple[tuple[Callable[[str], bool], ...], ...] = (
    (nemo_is_content_safe,),
    (nemo_llama_guard,),
    (nemoguard("User Safety"), nemoguard("Response Safety")),
    (llama_stack,),
)
