"""Render a chat template that came with weights: in its own process, in Jinja's immutable sandbox, within limits.

Run as a script by template.py; imports nothing of guardpass. Reads {"template", "variables", "conversations"}
as JSON on stdin and writes {"texts", "reads"} or {"error"} on stdout. `reads` names what the template did with
the content besides printing and stripping it: a template that looks at the text cannot be taken apart.
"""

import json
import sys
from typing import Any

_SECONDS, _BYTES, _LONGEST = 10, 1 << 30, 1 << 20


class Content(str):
    """A user's text that remembers who looked at it."""

    reads: set[str] = set()  # noqa: RUF012  shared on purpose: one report per process

    def __getattribute__(self, name: str) -> Any:
        # Jinja probes for __html__ and __class__; methods of str are what a template can look with.
        if not name.startswith("_") and name not in ("strip", "lstrip", "rstrip"):
            Content.reads.add(name)
        return super().__getattribute__(name)

    def strip(self, chars: str | None = None, /) -> "Content":
        return Content(super().strip(chars))

    def lstrip(self, chars: str | None = None, /) -> "Content":
        return Content(super().lstrip(chars))

    def rstrip(self, chars: str | None = None, /) -> "Content":
        return Content(super().rstrip(chars))

    def __add__(self, other: str) -> "Content":
        return Content(super().__add__(other))

    def __radd__(self, other: str) -> "Content":
        return Content(other.__add__(str(self)))

    def __bool__(self) -> bool:
        # Whether there is any text is probed by rendering, so asking it is allowed.
        return str.__len__(self) > 0

    def __eq__(self, other: object) -> bool:
        if other != "":
            Content.reads.add("==")
        return str.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _watch(operator: str) -> Any:
    def method(self: Content, *args: Any) -> Any:
        Content.reads.add(operator.strip("_"))
        return getattr(str, operator)(self, *args)

    return method


for _operator in ["contains", "len", "getitem", "iter", "lt", "le", "gt", "ge", "mod", "mul", "rmul"]:
    setattr(Content, f"__{_operator}__", _watch(f"__{_operator}__"))


def render(template: str, variables: dict[str, Any], conversations: list[list[dict[str, str]]]) -> list[str]:
    """The conversations as transformers' apply_chat_template(add_generation_prompt=True) renders them."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(f"the template refuses the conversation: {message}")

    def no_clock(_format: str) -> None:
        raise TemplateError("the template inserts today's date, so its prompt has no fixed tokens")

    # The settings of transformers.utils.chat_template_utils, which the weights were trained with.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals.update(raise_exception=refuse, strftime_now=no_clock)
    compiled = environment.from_string(template)
    texts = []
    for messages in conversations:
        watched = [{**message, "content": Content(message["content"])} for message in messages]
        text = ""
        for part in compiled.generate(messages=watched, add_generation_prompt=True, **variables):
            text += part
            if len(text) > _LONGEST:
                raise TemplateError(f"the template renders more than {_LONGEST} characters")
        texts.append(text)
    return texts


def main() -> None:
    """Limit this process, render, report. Every failure is a report."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    except ImportError:  # Windows has no such limits; the parent's clock still holds
        pass
    try:
        report: dict[str, Any] = {"texts": render(**json.load(sys.stdin)), "reads": sorted(Content.reads)}
    except BaseException as error:
        report = {"error": f"{type(error).__name__}: {error}"[:500]}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
