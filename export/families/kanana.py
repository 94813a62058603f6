"""Kakao Kanana Safeguard. Verdict tokens and categories: the model cards, huggingface.co/kakaocorp."""

from .schema import Answer, Family, Message, Prompt, Question

_USER, _ASSISTANT = Message("user", "{prompt}"), Message("assistant", "{response}")
_PROMPT = Prompt((_USER,), "{verdict}")
_SAFE = Answer("<SAFE>")


def _unsafe(code: str, category: str, openai: str | None = None) -> Answer:
    return Answer(f"<UNSAFE-{code}>", "unsafe", category, openai)


ROWS = (
    Family(
        name="kanana-safeguard",
        checkpoints=("kakaocorp/kanana-safeguard-8b",),
        modes={"prompt": _PROMPT, "response": Prompt((_USER, _ASSISTANT), "{verdict}")},
        questions=(
            Question(
                "verdict",
                (
                    _SAFE,
                    _unsafe("S1", "hate", "hate"),
                    _unsafe("S2", "harassment", "harassment"),
                    _unsafe("S3", "sexual content", "sexual"),
                    _unsafe("S4", "crime", "illicit"),
                    _unsafe("S5", "child sexual exploitation", "sexual/minors"),
                    _unsafe("S6", "suicide and self-harm", "self-harm"),
                    _unsafe("S7", "misinformation"),
                ),
            ),
        ),
    ),
    Family(
        name="kanana-safeguard-siren",
        checkpoints=("kakaocorp/kanana-safeguard-siren-8b",),
        modes={"prompt": _PROMPT},
        questions=(
            Question(
                "verdict",
                (
                    _SAFE,
                    _unsafe("I1", "adult verification"),
                    _unsafe("I2", "professional advice"),
                    _unsafe("I3", "personal information"),
                    _unsafe("I4", "intellectual property"),
                ),
            ),
        ),
    ),
    Family(
        name="kanana-safeguard-prompt",
        checkpoints=("kakaocorp/kanana-safeguard-prompt-2.1b",),
        modes={"prompt": _PROMPT},
        questions=(Question("verdict", (_SAFE, _unsafe("A1", "prompt injection"), _unsafe("A2", "prompt leaking"))),),
    ),
)
