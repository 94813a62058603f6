"""Llama Guard 3 (arXiv 2411.17713). Categories: the model cards, MLCommons' hazard taxonomy (arXiv 2404.12241)."""

from guardpass.format.manifest import Mode

from .schema import Answer, Family, Message, Prompt, Question

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
    ("code interpreter abuse", "illicit"),  # S14: not in the 1B
)
_USER, _ASSISTANT = Message("user", "{prompt}"), Message("assistant", "{response}")
_VERDICT = Question("verdict", (Answer("safe"), Answer("unsafe", "unsafe")))
_END = Answer("<|eot_id|>", label="none")
_MARKS = ("<BEGIN UNSAFE CONTENT CATEGORIES>", "First line must read 'safe' or 'unsafe'.")


def _codes(field: str, count: int, before: str = "", *others: Answer) -> Question:
    """Category codes; that they are unsafe was said before."""
    codes = (
        Answer(f"{before}S{number}", category=category, openai=openai, label=f"S{number}")
        for number, (category, openai) in enumerate(_CATEGORIES[:count], start=1)
    )
    return Question(field, (*others, *codes))


def _modes(answer: str) -> dict[Mode, Prompt]:
    """The template ends at the assistant's header; its weights go on with two line breaks themselves."""
    return {
        "prompt": Prompt((_USER,), answer, generation_prompt=False),
        "response": Prompt((_USER, _ASSISTANT), answer, generation_prompt=False),
    }


def _rows(name: str, checkpoint: str, codes: int, *marks: str) -> tuple[Family, Family]:
    """The first code, and by name alone a second one, for 28 tokens more."""
    first, second = _codes("category", codes), _codes("second_category", codes, ",", _END)
    return (
        Family(
            name=name,
            checkpoints=(checkpoint,),
            marks=(*_MARKS, *marks),
            modes=_modes("\n\n{safe|unsafe\n{category}}"),
            questions=(_VERDICT, first),
        ),
        Family(
            name=f"{name}-two-codes",
            modes=_modes("\n\n{safe|unsafe\n{category}{second_category}}"),
            questions=(_VERDICT, first, second),
        ),
    )


ROWS = (
    *_rows("llama-guard-3", "meta-llama/Llama-Guard-3-8B", 14, "S14: Code Interpreter Abuse."),
    *_rows("llama-guard-3-1b", "meta-llama/Llama-Guard-3-1B", 13),
)
