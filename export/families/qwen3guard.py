"""Qwen3Guard-Gen (arXiv 2510.14276). A controversial text is unsafe in strict mode, and safe in loose."""

from .schema import Answer, Family, Message, Prompt, Question

_USER, _ASSISTANT = Message("user", "{prompt}"), Message("assistant", "{response}")
_CATEGORIES = (
    Answer(" Violent", category="violent", openai="illicit/violent"),
    Answer(" Non-violent Illegal Acts", category="non-violent illegal acts", openai="illicit"),
    Answer(" Sexual Content or Sexual Acts", category="sexual content or sexual acts", openai="sexual"),
    Answer(" PII", category="personally identifiable information"),
    Answer(" Suicide & Self-Harm", category="suicide and self-harm", openai="self-harm"),
    Answer(" Unethical Acts", category="unethical acts", openai="harassment"),
    Answer(" Politically Sensitive Topics", category="politically sensitive topics"),
    Answer(" Copyright Violation", category="copyright violation"),
)
# A reply is no jailbreak: its template does not name it.
_REPLY = "{category:" + "|".join(answer.text for answer in _CATEGORIES) + "}"
_JAILBREAK = Answer(" Jailbreak", category="jailbreak")

_SAFETY = Question("safety", (Answer(" Safe"), Answer(" Unsafe", "unsafe"), Answer(" Controversial", "controversial")))

ROWS = (
    Family(
        name="qwen3guard-gen",
        checkpoints=tuple(f"Qwen/Qwen3Guard-Gen-{size}" for size in ("0.6B", "4B", "8B")),
        marks=("'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'",),
        modes={
            "prompt": Prompt(
                (_USER,),
                "Safety:{ Safe\nCategories: None| Unsafe\nCategories:{category}| Controversial\nCategories:{category}}",
                generation_prompt=False,
            ),
            "response": Prompt(
                (_USER, _ASSISTANT),
                f"Safety:{{ Safe\nCategories: None| Unsafe\nCategories:{_REPLY}| Controversial\nCategories:{_REPLY}}}"
                "\nRefusal:{refusal}",
                generation_prompt=False,
            ),
        },
        questions=(
            _SAFETY,
            Question("category", (*_CATEGORIES, _JAILBREAK)),
            Question("refusal", (Answer(" Yes"), Answer(" No"))),
        ),
    ),
)
