"""Render a chat template that came with weights: in its own process, in Jinja's immutable sandbox, within limits.

Run as a script by template.py; imports nothing of guardpass. Reads the arguments of `render` as a JSON object on
stdin and writes {"texts", "reads"} on stdout, and "error" where that stopped it, behind the texts that it had
rendered. `reads` names what the template did with the content besides printing, joining and stripping it: a template
that looks at the text cannot be taken apart.
"""

import contextlib
import datetime
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jinja2.runtime
import jinja2.tests
from jinja2 import TemplateError, Undefined, meta, nodes
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

_SECONDS, _BYTES, _LONGEST = 5, 1 << 30, 1 << 20
_READS: set[str] = set()


class Content(str):
    """A user's text that remembers who looked at it. What is joined from it is content as well."""

    def __getattribute__(self, name: str) -> Any:
        # Jinja probes for __html__ and __class__; methods of str are what a template can look with.
        if not name.startswith("_") and name not in ("strip", "lstrip", "rstrip"):
            _READS.add(name)
        return super().__getattribute__(name)

    def __str__(self) -> str:
        return self

    def strip(self, chars: str | None = None, /) -> "Content":
        return self._stripped(super().strip, chars)

    def lstrip(self, chars: str | None = None, /) -> "Content":
        return self._stripped(super().lstrip, chars)

    def rstrip(self, chars: str | None = None, /) -> "Content":
        return self._stripped(super().rstrip, chars)

    def _stripped(self, method: Callable[[str | None], str], chars: str | None) -> "Content":
        # White space is probed by rendering; that no text may begin with a "#" could not be.
        if chars is not None:
            _READS.add("strip with characters")
        return Content(method(chars))

    def __add__(self, other: str) -> "Content":
        return Content(super().__add__(other))

    def __radd__(self, other: str) -> "Content":
        return Content(other.__add__(self))

    def __bool__(self) -> bool:
        # Whether there is any text is probed by rendering, so asking it is allowed.
        return str.__len__(self) > 0

    def __eq__(self, other: object) -> bool:
        if other != "":
            _READS.add("==")
        return str.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # looked up in a dictionary
        _READS.add("hash")
        return str.__hash__(self)


def _watch(operator: str) -> Any:
    def method(self: Content, *args: Any) -> Any:
        _READS.add(operator)
        return getattr(str, f"__{operator}__")(self, *args)

    return method


for _operator in ["contains", "len", "getitem", "iter", "lt", "le", "gt", "ge", "mod", "mul", "rmul", "repr", "format"]:
    setattr(Content, f"__{_operator}__", _watch(_operator))


def _clean(value: Any) -> bool:
    """Whether a value surely holds no content: what C code does with a str no method of Content can notice."""
    if isinstance(value, list | tuple):
        return all(map(_clean, value))
    if isinstance(value, dict):
        return all(map(_clean, value.keys())) and all(map(_clean, value.values()))
    return isinstance(value, str | int | float | range | Undefined | None) and not isinstance(value, Content)


def _join(parts: Iterable[str]) -> str:
    """The parts as one text, which is content if a part is."""
    parts = list(parts)
    text = "".join(parts)
    return Content(text) if any(isinstance(part, Content) for part in parts) else text


def _str_join(seq: Iterable[Any]) -> str:
    return _join(map(str, seq))


# What may be given content, and how many leading arguments of it: their results still are watched content.
_FILTERS = dict.fromkeys(("trim", "string", "first", "last", "list", "length", "count", "reverse", "items"), 1)
_FILTERS |= dict.fromkeys(("select", "reject", "selectattr", "rejectattr", "map"), 1) | {"default": 2, "d": 2}
_TESTS = dict.fromkeys(("==", "eq", "equalto", "!=", "ne", "sameas", "in"), 2)
_TESTS |= dict.fromkeys(("defined", "undefined", "none", "boolean", "true", "false", "string", "mapping"), 1)
_TESTS |= dict.fromkeys(("integer", "float", "number", "iterable", "sequence", "callable"), 1)


def _watched(name: str, function: Any, free: int) -> Any:
    """A filter or test that notes content among the arguments behind the first `free`."""
    skipped = free + hasattr(function, "jinja_pass_arg")  # Jinja's own context comes first

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        if not _clean(args[skipped:]) or not _clean(options):
            _READS.add(name)
        result = function(*args, **options)
        if isinstance(result, Markup):  # escapes what is joined to it, and compares without asking the content
            raise TemplateError(f"the template uses HTML escaping ({name}), which cannot be followed")
        return result

    return wrapper


def _in(value: Any, container: Any) -> bool:
    if isinstance(value, Content):
        _READS.add("in")
    return value in container


def _iterable(value: Any) -> bool:
    return isinstance(value, Content) or bool(jinja2.tests.test_iterable(value))


class _Compared(NodeTransformer):
    """Turns `in` into the test of that name, which can be watched."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if not any(operand.op in ("in", "notin") for operand in node.ops):
            return node
        if len(node.ops) > 1:
            raise TemplateError("the template chains `in` with another comparison, which cannot be followed")
        (operand,) = node.ops
        place = {"lineno": node.lineno, "environment": node.environment}
        test = nodes.Test(node.expr, "in", [operand.expr], [], None, None, **place)
        return test if operand.op == "in" else nodes.Not(test, **place)


class _Environment(ImmutableSandboxedEnvironment):
    """With the settings of transformers.utils.chat_template_utils, which the weights were trained with."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    concat = staticmethod(_join)

    def __init__(self, date: str | None) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        jinja2.runtime.str_join = _str_join  # what `~` compiles to
        self.filters["tojson"] = _to_json
        self.tests["in"] = _in
        # Any str is; Jinja finds out by beginning to read it.
        self.tests["iterable"] = _iterable
        self.filters = {name: _watched(name, f, _FILTERS.get(name, 0)) for name, f in self.filters.items()}
        self.tests = {name: _watched(name, f, _TESTS.get(name, 0)) for name, f in self.tests.items()}
        self.filters["random"] = self.globals["lipsum"] = _refuse("the template draws at random")
        today = datetime.date.fromisoformat(date) if date else None
        self.globals["strftime_now"] = (
            today.strftime
            if today
            else _refuse(
                "the template inserts today's date (give the one the weights were trained with: --date YYYY-MM-DD)"
            )
        )
        self.globals["raise_exception"] = _raise_exception

    def call(self, context: Any, function: Any, /, *args: Any, **options: Any) -> Any:
        passes_on = isinstance(function, Macro | BlockReference | LoopContext) or function in (dict, Namespace)
        # Inside a loop Jinja passes its own variables along; the function does not get them.
        named = {key: value for key, value in options.items() if key not in ("_loop_vars", "_block_vars")}
        if not passes_on and not (_clean(args) and _clean(named)):
            _READS.add(getattr(function, "__name__", "call"))
        return super().call(context, function, *args, **options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        joins = operator == "+" and type(left) in (str, Content, list) and type(right) in (str, Content, list)
        if not joins and not (_clean(left) and _clean(right)):
            _READS.add(operator)
        return super().call_binop(context, operator, left, right)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(f"the template refuses the conversation: {message}")


def _refuse(reason: str) -> Callable[..., None]:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise TemplateError(f"{reason}, so its prompt has no fixed tokens")

    return refuse


def render(
    template: str,
    variables: dict[str, Any],
    unknown: list[str],
    date: str | None,
    typed: bool,
    generation_prompt: bool,
    conversations: list[list[dict[str, Any]]],
) -> Iterator[str]:
    """The conversations as transformers' apply_chat_template renders them.

    unknown: variables whose value only transformers knows. date: what today is to the template. typed: messages
    hold lists of typed parts. The content of a message is a list of [is it content, text].
    """
    environment = _Environment(date)
    tree = environment.parse(template)
    if tree.find(nodes.EvalContextModifier):
        raise TemplateError("the template turns HTML escaping on or off, which cannot be followed")
    used = meta.find_undeclared_variables(tree).intersection(unknown)
    if used:
        raise TemplateError(f"the template uses {sorted(used)}, which tokenizer_config.json does not set")
    compiled = environment.from_string(cast(nodes.Template, _Compared().visit(tree)))
    names = {"tools": None, "documents": None, "add_generation_prompt": generation_prompt, **variables}
    for messages in conversations:
        watched = [{**message, "content": _content(message["content"], typed)} for message in messages]
        parts, size = [], 0
        for part in compiled.generate(messages=watched, **names):
            parts.append(part)
            size += str.__len__(part)
            if size > _LONGEST:
                raise TemplateError(f"the template renders more than {_LONGEST} characters")
        yield "".join(parts)


def _content(parts: list[tuple[bool, str]], typed: bool) -> Any:
    text = _join(Content(text) if content else text for content, text in parts)
    return [{"type": "text", "text": text}] if typed else text


def main() -> None:
    """Limit this process, render, report. Every failure is a report."""
    # Windows has no such limits, and macOS not that of memory; the parent's clock still holds.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    report: dict[str, Any] = {"texts": []}
    try:
        for text in render(**json.load(sys.stdin)):
            report["texts"].append(text)
    except BaseException as error:
        report["error"] = f"{type(error).__name__}: {error}"[:500]
    json.dump(report | {"reads": sorted(_READS)}, sys.stdout)


if __name__ == "__main__":
    main()
