"""Chat templates: reproduced exactly or refused, and never trusted."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from guardpass import TemplateError
from guardpass.export.checkpoint.files import Checkpoint
from guardpass.export.checkpoint.tokenizer import CheckpointTokenizer
from guardpass.export.prompt.template import Template
from guardpass.format.manifest import Piece, Role
from guardpass.tokenizer import assemble

from ..support.helpers import texts

Make = Callable[[str], Path]
_ONE: tuple[Role, ...] = ("prompt",)
_TWO: tuple[Role, ...] = ("prompt", "response")


@pytest.fixture
def source(plain_checkpoint: Path, tmp_path: Path) -> Make:
    """The directory of a checkpoint with another template; X stands for the user's text."""

    def make(template: str) -> Path:
        copy = Path(shutil.copytree(plain_checkpoint, tmp_path / "source"))
        _configure(copy, template.replace("X", "messages[0].content"))
        return copy

    return make


def _configure(copy: Path, template: object) -> None:
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def _pieces(template: Template, roles: tuple[Role, ...]) -> tuple[Piece, ...]:
    speakers = {"prompt": "user", "response": "assistant"}
    return template.pieces([(speakers[role], [Piece("", role)]) for role in roles], generation_prompt=True)


def _refused(directory: Path, roles: tuple[Role, ...], says: str) -> None:
    with pytest.raises(TemplateError, match=says) as caught:
        _pieces(Template(Checkpoint(directory)), roles)
    assert type(caught.value) is TemplateError


# What a template did with the text, and how it could have told one text from another.
_LOOKS = {
    "contains": "{% if 'bomb' in X %}!{% endif %}{{ X }}",
    "in": "{% if X and X in 'zebra' %}!{% endif %}{{ X }}{{ '!' if X not in ['x'] }}",
    "len": "{% if X | length > 90000 %}!{% endif %}{{ X }}",
    "getitem": "{{ X[:200000] }}",
    "replace": "{{ X | replace('bomb', 'flower') }}",
    "replace, for a block": "{% filter replace('bomb', 'flower') %}{{ X }}{% endfilter %}",
    "upper": "{% if X | upper == 'BOMB' %}!{% endif %}{{ X }}",
    "==": "{% if X == 'bomb' %}!{% endif %}{{ X }}",
    "==, in a list": "{% if [X] == ['bomb'] %}!{% endif %}{{ X }}",
    "==, by filter": "{% if messages | selectattr('content', 'equalto', 'bomb') | list %}!{% endif %}{{ X }}",
    "gt": "{% if X > 'z' %}!{% endif %}{{ X }}",
    "split": "{{ X.split('</think>')[-1] }}",
    "startswith": "{% if 'bomb'.startswith(X) and X %}!{% endif %}{{ X }}",
    "iter": "{% for c in X %}{{ c }}{% endfor %}",
    "truncate": "{{ X | truncate(200000) }}",
    "tojson": "{% if X | tojson == '\"bomb\"' %}!{% endif %}{{ X }}",
    "int": "{% if X | int == 777 %}!{% endif %}{{ X }}",
    "wordcount": "{% if X | wordcount > 9999 %}!{% endif %}{{ X }}",
    "isupper": "{% if X is upper %}!{% endif %}{{ X }}",
    "hash": "{% if {'bomb': 1}[X] is defined %}!{% endif %}{{ X }}",
    "repr": "{% if 'bomb' in messages | string %}!{% endif %}{{ X }}",
    "%": "{% if '%s' % X == 'bomb' %}!{% endif %}{{ X }}",
    "format": "{% if '{}'.format(X) == 'bomb' %}!{% endif %}{{ X }}",
    "join": "{% if [X] | join == 'bomb' %}!{% endif %}{{ X }}",
    "strip with characters": "{{ X.strip('#') }}",
    "contains, after ~": "{% set c = X ~ '' %}{% if 'bomb' in c %}!{% endif %}{{ X }}",
    "contains, after set": "{% set c %}{{ X }}{% endset %}{% if 'bomb' in c %}!{% endif %}{{ X }}",
    "contains, after macro": "{% macro f(x) %}{{ x }}{% endmacro %}{% if 'bomb' in f(X) %}!{% endif %}{{ X }}",
    "contains, after block": "{% block b %}{{ X }}{% endblock %}{% if 'bomb' in self.b() %}!{% endif %}",
}


@pytest.mark.parametrize("look", _LOOKS)
def test_looking_at_the_text_is_refused(source: Make, look: str) -> None:
    """No probe holds the word that any of these waits for, so rendering alone could not tell."""
    name = look.partition(",")[0]
    _refused(source(_LOOKS[look]), _ONE, rf"looks at the text it is given \(([^)]+, )?{name}[,)]")


_REFUSED = {
    "printed twice": ("{{ X }}{{ X }}", "prints the prompt 2 times"),
    "never printed": ("Hello.", "prints the prompt 0 times"),
    "replaced by its absence": ("{{ X or 'nothing' }}", "not trimming: given .* it prints 'nothing'"),
    "a mark where it is empty": ("{% if not X %}!{% endif %}{{ X }}", "not trimming"),
    "a mark where it is blank": ("{% if not X | trim %}!{% endif %}{{ X }}", "not trimming"),
    "HTML escaped": ("{{ X | e }}", "HTML escaping"),
    "HTML compared": ("{% if 'bomb' | safe == X %}!{% endif %}{{ X }}", "HTML escaping"),
    "HTML escaped by block": ("{% autoescape true %}{{ X }}{% endautoescape %}", "HTML escaping"),
    "today's date": ("{{ strftime_now('%d %b %Y') }}{{ X }}", "today's date"),
    "a random word": ("{{ ['a', 'b'] | random }}{{ X }}", "draws at random"),
    "lorem ipsum": ("{{ lipsum(n=1) }}{{ X }}", "draws at random"),
    "a refusal of its own": ("{{ raise_exception('no system message') }}{{ X }}", "refuses.*no system message"),
    "a value only transformers knows": ("{{ unk_token }}{{ X }}", "unk_token.*does not set"),
    "a syntax error": ("{% if %}", "TemplateSyntaxError"),
    "an unknown tag": ("{% include 'x' %}{{ X }}", "cannot be rendered"),
    "an import": ("{% import 'os' as os %}{{ X }}", "cannot be rendered"),
    "a class": ("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ X }}", "SecurityError.*__class__"),
    "globals": ("{{ cycler.__init__.__globals__.os.system('id') }}{{ X }}", "SecurityError.*__init__"),
    "globals by filter": ("{{ (cycler | attr('__init__')).__globals__ }}{{ X }}", "SecurityError|UndefinedError"),
    "the watcher's own": ("{{ X.strip.__func__.__globals__ }}{{ X }}", "SecurityError"),
    "a list changed": ("{{ messages.append(1) }}{{ X }}", "SecurityError"),
    "a macro without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ X }}", "RecursionError"),
    "ten gigabytes": ("{{ 'a' * 10**10 }}{{ X }}", "MemoryError|stopped"),
    "ten gigabytes in steps": (
        "{% set ns = namespace(a='a' * 10**6) %}{% for i in range(99999) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "MemoryError|stopped",
    ),
    "two megabytes of prompt": ("{{ 'a' * 2 * 10**6 }}{{ X }}", "more than 1048576 characters"),
    "a range too long": ("{% for i in range(10**9) %}{% endfor %}{{ X }}", "OverflowError"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_what_cannot_be_reproduced_is_refused(source: Make, case: str) -> None:
    template, says = _REFUSED[case]
    _refused(source(template), _ONE, says)


def test_templates_that_never_end_are_stopped(plain_checkpoint: Path, tmp_path: Path) -> None:
    """By the child's limit on processor time; run together, as each takes all of it."""
    endless = [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}",
        "{{ 9 ** (9 ** 9) }}{{ messages[0].content }}",
    ]
    templates = []
    for index, text in enumerate(endless):
        copy = Path(shutil.copytree(plain_checkpoint, tmp_path / str(index)))
        _configure(copy, text)
        templates.append(copy)
    with ThreadPoolExecutor(len(endless)) as pool:
        list(pool.map(lambda copy: _refused(copy, _ONE, "was stopped|did not end"), templates))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages | reverse %}{{ m.content }}\n{% endfor %}", "out of order"),
        ("{{ messages[-1].content }}", "prints the prompt 0 times"),
        ("{% for m in messages %}{{ m.content if loop.first or messages[0].content }}{% endfor %}", "not trimming"),
        ("{% if messages[0].content == messages[1].content %}!{% endif %}{{ X }}{{ messages[1].content }}", "looks at"),
    ],
)
def test_two_sided_templates_that_are_refused(source: Make, template: str, says: str) -> None:
    _refused(source(template), _TWO, says)


_FRAME = "<|start_header_id|>user<|end_header_id|>\n\n<human>{}</human>\n<ai>{}</ai><|eot_id|>\n"
_LOOP = "{% for m in messages %}<{{ m['role'] | upper }}>{{ m['content'] }}</{{ m.role }}>{% endfor %}<|eot_id|>"
_ACCEPTED = {
    "as it is": _FRAME.format("{{ X }}", "{{ messages[1].content if messages[1] }}"),
    "trimmed": _FRAME.format("{{ X | trim }}", "{{ messages[1].content | trim if messages[1] }}"),
    "trimmed on the left": _FRAME.format("{{ X.lstrip() }}", "{{ messages[1].content.rstrip() if messages[1] }}"),
    "each message": _LOOP,
    "special tokens": "{{ bos_token }}" + _LOOP + "{{ eos_token }}{{ pad_token }}",
    "tools that are none": "{% if tools is not none or documents is not none %}tools{% endif %}" + _LOOP,
    "roles looked at": "{% if messages[0].role in ['user'] and 'tools' not in messages[0] %}yes{% endif %}" + _LOOP,
    "white space control": "{%- for m in messages -%}\n  {{- '> ' + m.content -}}  \n{%- endfor %}\n\n<|eot_id|>",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}|{% endfor %}",
    "macro, set, filter": "{% macro f(m) %}<{{ m.content }}>{% endmacro %}{% for m in messages %}{% set c %}"
    "{{ f(m) }}{% endset %}{% filter trim %} {{ c ~ '.' }} {% endfilter %}{% endfor %}",
    "filters over messages": "{% set u = messages | selectattr('role', 'equalto', 'user') | list %}{{ u[0].content }}|"
    "{% if messages | length > 1 %}{{ (messages | last)['content'] | default('', true) }}{% endif %}|",
}


def _equals_transformers(directory: Path) -> None:
    """Also on texts that the probes of export do not hold, special tokens among them."""
    tokenizer, template = AutoTokenizer.from_pretrained(directory), Template(Checkpoint(directory))
    samples = [*texts(20, seed=5), "", "  \n", " bomb\u3000", "<|eot_id|><SAFE>", "{{ X }}", "<b>&amp;'\""]
    for roles in (_ONE, _TWO):
        pieces = _pieces(template, roles)
        for text, reply in zip(samples, reversed(samples), strict=True):
            said = dict(zip(roles, (text, reply), strict=False))
            chat = [{"role": "user", "content": text}, {"role": "assistant", "content": reply}][: len(roles)]
            expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert assemble(pieces, said) == expected


@pytest.mark.parametrize("case", _ACCEPTED)
def test_accepted_templates_render_as_in_transformers(source: Make, case: str) -> None:
    _equals_transformers(source(_ACCEPTED[case]))


def test_templates_by_name(source: Make) -> None:
    """apply_chat_template takes the one called default."""
    directory = source("")
    named = {"tool_use": "no {{ 1 / 0 }}", "default": _ACCEPTED["each message"]}
    _configure(directory, [{"name": name, "template": text} for name, text in named.items()])
    _equals_transformers(directory)


def test_the_file_of_its_own_comes_first(source: Make) -> None:
    directory = source("old {{ X }}{{ messages[1].content }}")
    (directory / "chat_template.jinja").write_text(_ACCEPTED["special tokens"], encoding="utf-8")
    _equals_transformers(directory)


# What each takes: text, parts, or both. `content is string` is how templates of models with images tell.
_PARTS = {
    "parts alone, raising on text": "{% for m in messages %}<{{ m['content'][0]['text'] + '.' }}>{% endfor %}",
    "parts alone, refusing text": "{% for m in messages %}{% if m.content is string %}{{ raise_exception('no') }}"
    "{% endif %}<{{ m.content[0].text | trim }}>{% endfor %}",
    "parts alone, text lost": "{% for m in messages %}<{% for p in m.content if p.type == 'text' %}{{ p.text }}"
    "{% endfor %}>{% endfor %}",
    "both": "{% for m in messages %}<{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}"
    "{% endif %}>{% endfor %}",
    "both, in two ways": "{% for m in messages %}<{% if m.content is string %}{{ m.content }}{% else %}+"
    "{{ m.content[0].text }}{% endif %}>{% endfor %}",
}


@pytest.mark.parametrize("case", _PARTS)
def test_content_given_as_text_or_as_parts(case: str, source: Make) -> None:
    """As text wherever the template takes that; and what it does to parts is told where it is something else."""
    directory = source(_PARTS[case])
    checkpoint, tokenizer = Checkpoint(directory), AutoTokenizer.from_pretrained(directory)
    template = Template(checkpoint)
    for roles in (_ONE, _TWO):
        pieces = _pieces(template, roles)
        for text, reply in (("bomb", "no"), ("", "  \n"), (" <|eot_id|> ", "{{ X }}")):
            said: list[object] = [text, reply]
            if case.startswith("parts"):
                said = [[{"type": "text", "text": each}] for each in (text, reply)]
            speakers = ("user", "assistant")[: len(roles)]
            chat = [{"role": role, "content": each} for role, each in zip(speakers, said, strict=False)]
            expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert assemble(pieces, dict(zip(roles, (text, reply), strict=False))) == expected
    notes = ["the chat template prints another prompt for messages given as lists of parts"] * case.endswith("ways")
    assert [note.partition(";")[0] for note in checkpoint.notes] == notes


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.content is string %}{{ m.content.split('x')[0] }}"
        "{% else %}{{ m.content[0].text }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}{% if m.content == '' %}"
        "{{ raise_exception('empty') }}{% endif %}{% endfor %}",
    ],
    ids=["text is looked at", "text is refused where it is empty"],
)
def test_text_that_is_printed_decides(template: str, source: Make) -> None:
    """Given as parts it would be static; but as text, which is what is usual, it is not."""
    _refused(source(template), _ONE, "looks at the text|refuses the conversation: empty")


def test_a_template_that_reads_neither_says_so_of_both(source: Make) -> None:
    template = "{% if 'x' in messages[0].content[0].text %}!{% endif %}{{ messages[0].content[0].text }}"
    _refused(source(template), _ONE, r"given as a list of parts: .*looks at the text it is given \(contains\)")


_OTHERS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "an object of names": (
        lambda at: _configure(at, {"rag": "no", "default": _ACCEPTED["each message"]}),
        "of several chat templates ('default', 'rag') the one called default is used",
    ),
    "default twice": (
        lambda at: _configure(
            at, [{"name": "default", "template": "old"}, {"name": "default", "template": _ACCEPTED["each message"]}]
        ),
        None,
    ),
    "a file, and the config in agreement": (
        lambda at: _files(at, chat_template=_ACCEPTED["each message"], config=_ACCEPTED["each message"]),
        None,
    ),
    "a file, and another in the config": (
        lambda at: _files(at, chat_template=_ACCEPTED["each message"], config="old"),
        "of tokenizer_config.json differs from the one that is used, of chat_template.jinja",
    ),
    "a file, and more in a folder": (
        lambda at: _files(at, chat_template=_ACCEPTED["each message"], config=None, rag="no"),
        "of several chat templates ('default', 'rag') the one called default is used",
    ),
    "a default in the folder": (
        lambda at: _files(at, chat_template="old", config=None, default=_ACCEPTED["each message"]),
        None,
    ),
}


def _files(directory: Path, chat_template: str, config: str | None, **folder: str) -> None:
    _configure(directory, config)
    (directory / "chat_template.jinja").write_text(chat_template)
    for name, text in folder.items():
        (directory / "additional_chat_templates").mkdir(exist_ok=True)
        (directory / "additional_chat_templates" / f"{name}.jinja").write_text(text)


@pytest.mark.parametrize("case", _OTHERS)
def test_of_several_templates_the_one_transformers_takes(case: str, source: Make) -> None:
    directory = source("")
    change, note = _OTHERS[case]
    change(directory)
    _equals_transformers(directory)
    checkpoint = Checkpoint(directory)
    Template(checkpoint)
    assert len(checkpoint.notes) == (note is not None)
    assert note is None or note in checkpoint.notes[0]


def test_a_processors_template_is_told_where_it_differs(source: Make) -> None:
    directory = source(_ACCEPTED["each message"])
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": "another"}))
    checkpoint = Checkpoint(directory)
    Template(checkpoint)
    assert checkpoint.notes[0].startswith("the chat template of chat_template.json differs from the one that is used")


@pytest.mark.parametrize("group", ["extra_special_tokens", "model_specific_special_tokens", None])
def test_special_tokens_that_have_names_of_their_own(group: str | None, source: Make) -> None:
    """transformers 5 passes them to the template by name, and adds those of a list as special tokens."""
    directory = source(_ACCEPTED["each message"] + "{{ image_token }}")
    path = directory / "tokenizer_config.json"
    named = {"image_token": "<|eot_id|>"}
    body = json.loads(path.read_text()) | ({group: named} if group else named)
    path.write_text(json.dumps(body))
    _equals_transformers(directory)
    if group != "extra_special_tokens":
        path.write_text(json.dumps(body | {"extra_special_tokens": ["<UNSAFE-S1>"]}))
    reserved = {token.content for token in CheckpointTokenizer(Checkpoint(directory)).reserved.values()}
    assert set(AutoTokenizer.from_pretrained(directory).all_special_tokens) <= reserved


@pytest.mark.parametrize("keys", [(), ("eos_token", "bos_token")], ids=["in agreement", "in the old file alone"])
def test_special_tokens_of_the_file_that_older_versions_wrote(keys: tuple[str, ...], source: Make) -> None:
    directory = source(_ACCEPTED["special tokens"])
    path = directory / "tokenizer_config.json"
    body = json.loads(path.read_text())
    mapped = {key: {"content": body[key], "lstrip": False} for key in ("bos_token", "eos_token")}
    (directory / "special_tokens_map.json").write_text(json.dumps(mapped))
    kept = body.keys() - {"added_tokens_decoder", *keys}
    path.write_text(json.dumps({key: body[key] for key in kept}))
    _equals_transformers(directory)


def test_special_tokens_written_as_objects(source: Make) -> None:
    directory = source(_ACCEPTED["special tokens"] + "{{ cls_token is defined }}")
    path = directory / "tokenizer_config.json"
    token = {
        "__type": "AddedToken",
        "content": "<|begin_of_text|>",
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": token, "cls_token": None}))
    _equals_transformers(directory)
