"""Llama Guard 3 (arXiv 2411.17713). Categories: the model cards, MLCommons' hazard taxonomy (arXiv 2404.12241)."""

from dataclasses import replace

from guardpass.manifest import Mode

from ..family import Answer, Family, Message, Prompt, Question

_CATEGORIES = (
    ("violent crimes", "illicit/violent"),
    ("non-violent crimes", "illicit"),
    ("sex-related crimes", "sexual"),
    ("child sexual exploitation", "sexual/minors"),
    ("defamation", None),
    ("specialized advice", None),
    ("privacy", None),
    ("intellectual property", None),
    ("indiscriminate weapons", "illicit/violent"),
    ("hate", "hate"),
    ("suicide and self-harm", "self-harm"),
    ("sexual content", "sexual"),
    ("elections", None),
    ("code interpreter abuse", "illicit"),
)
_USER, _ASSISTANT = Message("user", "{prompt}"), Message("assistant", "{response}")
_VERDICT = Question("verdict", (Answer("safe"), Answer("unsafe", "unsafe")))


def _codes(field: str, before: str = "") -> Question:
    """The numbers of the category codes; whether one is unsafe was said before."""
    answers = (Answer(f"{before}{n}", category=c, openai=o) for n, (c, o) in enumerate(_CATEGORIES, start=1))
    return Question(field, tuple(answers))


def _modes(answer: str) -> dict[Mode, Prompt]:
    """The template ends at the assistant's header; its weights go on with two line breaks themselves."""
    return {
        "prompt": Prompt((_USER,), answer, generation_prompt=False),
        "response": Prompt((_USER, _ASSISTANT), answer, generation_prompt=False),
    }


_FIRST = Family(
    name="llama-guard-3",
    checkpoints=("meta-llama/Llama-Guard-3-1B", "meta-llama/Llama-Guard-3-8B"),
    marks=("<BEGIN UNSAFE CONTENT CATEGORIES>", "First line must read 'safe' or 'unsafe'."),
    modes=_modes("\n\n{safe|unsafe\nS{category}}"),
    questions=(_VERDICT, _codes("category")),
)
_END = Answer("<|eot_id|>")
_SECOND = _codes("second_category", ",S")
ROWS = (
    _FIRST,
    # The same with a second code, for 28 tokens more; never detected, so it is named.
    replace(
        _FIRST,
        name="llama-guard-3-two-codes",
        checkpoints=(),
        marks=("(named only)",),
        modes=_modes("\n\n{safe|unsafe\nS{category}{second_category}}"),
        questions=(_VERDICT, _codes("category"), replace(_SECOND, answers=(_END, *_SECOND.answers))),
    ),
)
