"""Bad files of families: each is refused, with the line that is wrong."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardpass import InputError
from guardpass.export.families.schema import validate
from guardpass.export.families.toml_file import read_family
from guardpass.export.families.toml_lines import line_of

from ..support.toml_families import EXAMPLE, POLICIES, write_family

# Bad files. Each changes a good one; the line is that of the text behind @, or the first where there is none.

_Change = tuple[str, str, str, str]  # what is replaced, by what, the line, the error
_REQUEST = 'answer = "Harmful request:{ yes| no}"'
_BOTH = 'answer = "Harmful request:{ yes| no}\\nResponse refusal:{ yes| no}"'
_YES = '    { text = " yes" },'
_UNKNOWN: list[_Change] = [
    ('name = "my-guard"', 'name = "my-guard"\ntitel = "x"', "titel", r"missing keys \[\], unknown keys \['titel'\]"),
    ("[[questions]]", '[modes]\nreply = { answer = "", messages = [] }\n[[questions]]', "reply =", "modes.reply: exp"),
    ("[modes.response]", "[mode.response]", "[mode.response]", r"missing keys \[\], unknown keys \['mode'\]"),
    (_REQUEST, _REQUEST + "\nthinks = true", "thinks", r"modes.prompt: .*unknown keys \['thinks'\]"),
    (_BOTH, _BOTH + "\n\n[modes.response.more]\nx = 1", "[modes.response.more]", r"unknown keys \['more'\]"),
    ('role = "system"', 'role = "system"\nname = "a"', 'name = "a"', r"messages\[0\]: .*unknown keys \['name'\]"),
    (
        'field = "response_refusal"',
        'field = "response_refusal"\n"de.cides" = 1',
        '"de.cides"',
        r"questions\[1\]: .*unknown keys \['de.cides'\]",
    ),
    (_YES, '    { text = " yes", "a(b" = 1 },', '"a(b"', r"questions\[1\].answers\[0\]: .*unknown keys \['a\(b'\]"),
    (_YES, '    { text = " yes",\ttoken = 1 },', "token", r"answers\[0\]: missing keys \[\], unknown keys \['token'\]"),
    (_YES, '    { txt = " yes" },', "txt", r"missing keys \['text'\], unknown keys \['txt'\]"),
]
_MISSING: list[_Change] = [
    ('name = "my-guard"\n', "", "", r"missing keys \['name'\], unknown keys \[\]"),
    (_REQUEST, "", "[modes.prompt]", r"modes.prompt: missing keys \['answer'\]"),
    ('role = "user"\n', "", "[[modes.response.messages]]\ntext", r"response.messages\[1\]: missing keys \['role'\]"),
    ('field = "response_refusal"', "", "[[questions]]\n\n", r"questions\[1\]: missing keys \['field'\]"),
    ('    { text = " no" },', "    {},", "{},", r"questions\[0\].answers\[1\]: missing keys \['text'\]"),
]
_TYPES: list[_Change] = [
    ('name = "my-guard"', "name = 7", "name =", "name: expected str, found int"),
    ('name = "my-guard"', 'name = ""', "name =", "name: expected a name, found ''"),
    ('name = "my-guard"', "name = 2024-07-26", "name =", "name: expected str, found date"),
    (_REQUEST, "answer = ['a']", "answer =", "modes.prompt.answer: expected str, found list"),
    (_BOTH, _BOTH + "\nraw = 1", "raw", "modes.response.raw: expected bool, found int"),
    (_BOTH, _BOTH + '\nraw = "true"', "raw", "modes.response.raw: expected bool, found str"),
    ('decides = ["harmful_request"]', 'decides = "harmful_request"', "decides", "decides: expected list, found str"),
    ('decides = ["harmful_request"]', "decides = [\n  # one\n  1]", "  1]", r"decides\[0\]: expected str, found int"),
    ('role = "system"', 'role = "human"', '"human"', r"messages\[0\].role: expected one of .*found 'human'"),
    (
        'severity = "unsafe", category = "not',
        'severity = "bad", category = "not',
        '"bad"',
        r"questions\[1\].answers\[1\].severity: expected one of",
    ),
    ('severity = "unsafe", category = "not', 'severity = ["safe"], category = "not', '["safe"]', "expected one of"),
    ('category = "harmful request"', "category = nan", "nan", r"answers\[0\].category: expected str, found float"),
    ('name = "my-guard"', 'name = "my-guard"\npolicies = {}', "policies", "policies: expected list, found dict"),
    (_YES, '    " yes",', '    " yes",', r"questions\[1\].answers\[0\]: expected dict, found str"),
]
_QUESTIONS: list[_Change] = [
    (
        'field = "response_refusal"',
        'field = "harmful_request"',
        'field = "harmful_request"\nanswers = [\n    { text = " yes" },',
        r"questions\[1\].field: 'harmful_request' is there already",
    ),
    (
        'field = "response_refusal"',
        'field = "response refusal"',
        '"response refusal"',
        r"questions\[1\].field: expected lett",
    ),
    ('field = "response_refusal"', 'field = ""', 'field = ""', r"questions\[1\].field: expected letters"),
    (
        '    { text = " no" },',
        '    { text = " yes" },',
        '    { text = " yes" },',
        r"questions\[0\].answers\[1\].text: 'yes' is",
    ),
    (
        '    { text = " no" },',
        '    { text = "yes" },',
        '{ text = "yes" }',
        r"answers\[1\].text: 'yes' is there already",
    ),
    ('    { text = " no" },', '    { text = "" },', '{ text = "" }', r"answers\[1\].text: expected text, found ''"),
    ('    { text = " no" },', "", "answers = [", r"questions\[0\].answers: expected two or more, found 1"),
    (
        _BOTH,
        'answer = "Harmful request:{ yes| no}"',
        '[[questions]]\nfield = "resp',
        r"questions\[1\]: no mode's answer has a slot of response_refusal; use the question or remove it",
    ),
]
_PROMPTS: list[_Change] = [
    ('{prompt}" }]', '{prompt" }]', "messages = ", r"modes.prompt.messages\[0\].text: .*a brace itself is doubled"),
    ('{prompt}" }]', '{prompt} }" }]', "messages = ", r"Single '}' encountered.*; a brace itself is doubled"),
    ('{prompt}" }]', '" }]', "messages = ", r"expected each of \['prompt'\] once, in braces, found \[\]"),
    ('{prompt}" }]', '{prompt} {prompt}" }]', "messages = ", r"found \['prompt', 'prompt'\]"),
    ('{prompt}" }]', '{prompt} {response}" }]', "messages = ", r"found \['prompt', 'response'\]"),
    ('{prompt}" }]', '{prompt} {title}" }]', "messages = ", r"found \['prompt', 'title'\]"),
    ('{prompt}" }]', '{promt}" }]', "messages = ", r"found \['promt'\]"),
    ('{prompt}" }]', '{}" }]', "messages = ", r"found \[''\]"),
    ('{prompt}" }]', '{0}" }]', "messages = ", r"found \['0'\]"),
    ('{prompt}" }]', '{prompt!r}" }]', "messages = ", r"found \['prompt!r'\]"),
    ('{prompt}" }]', '{prompt:>9}" }]', "messages = ", r"found \['prompt:>9'\]"),
    ('{prompt}" }]', '{prompt.__class__}" }]', "messages = ", r"found \['prompt.__class__'\]"),
    ('{prompt}" }]', '{prompt} {{a}} {\\"b\\": 1}" }]', "messages = ", r"a brace itself is doubled"),
    (
        'messages = [{ role = "user"',
        'messages = [] # [{ role = "user"',
        "messages = ",
        r"modes.prompt.messages: expected",
    ),
    (
        "{response}",
        "",
        "[[modes.response.messages]]",
        r"modes.response.messages: expected each of \['prompt', 'response'\]",
    ),
    ("형식: {{요청}}", "형식: {요청}", "[[modes.response.messages]]", r"found \['prompt', 'response', '요청'\]"),
    ("형식: {{요청}}", "형식: {{요청}", 'text = """', r"messages\[1\].text: Single '}'"),
    (_BOTH, _BOTH + "\nraw = true", "[[modes.response.messages]]", "expected one, as the prompt is raw, found 2"),
    (
        '["harmful_request"]',
        '["harmful_request", "x"]',
        "decides",
        r"decides\[1\]: expected a field of the answer, one of",
    ),
    (
        _REQUEST,
        _REQUEST + '\ndecides = ["response_refusal"]',
        'decides = ["resp',
        r"modes.prompt.decides\[0\]: .*found 'resp",
    ),
    (
        'decides = ["harmful_request"]',
        "decides = [\n'harmful_request',\n'category',\n]",
        "'category'",
        "found 'category'",
    ),
]
_ANSWERS: list[_Change] = [
    (
        _REQUEST,
        'answer = "Harmful request: yes"',
        '"Harmful request: yes"',
        "modes.prompt.answer: the answer has no slot",
    ),
    (
        _REQUEST,
        'answer = "Harmful request:{ yes|"',
        '{ yes|"',
        r"begins with no answer of harmful_request; expected one of",
    ),
    (_REQUEST, 'answer = "Harmful request:{ yes| no"', '{ yes| no"', r"not closed; expected } \(character 17,"),
    (_REQUEST, 'answer = "Harmful request:{ yes}"', "{ yes}", "fewer than two answers"),
    (_REQUEST, 'answer = "Harmful request:{ yes| yes}"', "{ yes| yes}", "has the same answer twice"),
    (_REQUEST, 'answer = "Harmful request:{yes|no}"', "{yes|no}", "'yes' begins with no answer of harmful_request"),
    (_REQUEST, 'answer = "Harmful request:{harmful}"', "{harmful}", r"no field 'harmful'; expected one of"),
    (_REQUEST, 'answer = "{ yes| no}{ yes| no}{ yes| no}"', "{ yes| no}{", "more slots than fields"),
    (_REQUEST, 'answer = "{harmful_request} {harmful_request}"', "{harmful_request} ", "decides a field twice"),
    (_BOTH, 'answer = """\nHarmful request:{ yes|no}"""', 'answer = """', "modes.response.answer: 'no' begins with no"),
    (
        ', severity = "unsafe", category = "harmful',
        ', category = "harmful',
        _REQUEST,
        "modes.prompt.answer: no field of it has an unsafe answer",
    ),
    (
        '{ text = " yes", severity = "unsafe"',
        '{ text = " yes", severity = "controversial"',
        _REQUEST,
        r"modes.prompt.answer: harmful_request decides, .*\['controversial', 'safe'\] alone; expected a safe",
    ),
]
_POLICY: list[_Change] = [
    (
        'asked = ["gambling"]',
        'asked = ["gambling", "betting"]',
        "asked",
        r"asked\[1\]: expected the name of a policy, one of",
    ),
    ('asked = ["gambling"]', "asked = []", '[[policies]]\nname = "gam', "policies: expected, in `asked`, the names"),
    ('asked = ["gambling"]', 'asked = ["spam", "spam"]', "asked", r"asked\[1\]: 'spam' is there already"),
    ('asked = ["gambling"]\n', "", '[[policies]]\nname = "gam', "policies: expected, in `asked`"),
    (
        'name = "spam"',
        'name = "gambling"',
        'name = "gambling"\ntitle = "Spam"',
        r"policies\[1\].name: 'gambling' is there",
    ),
    ('name = "spam"', 'name = "junk mail"', 'name = "junk', r"policies\[1\].name: expected letters"),
    ('title = "Spam"', 'title = " "', 'title = " "', r"policies\[1\].title: expected text, found ' '"),
    (
        'description = "advertises."',
        'description = ""',
        'description = ""',
        r"policies\[1\].description: expected text",
    ),
    ('description = "advertises."\n', "", "[[policies]]  #", r"policies\[1\]: missing keys \['description'\]"),
    ('category = "advertising"', 'kind = "advertising"', "kind", r"policies\[1\]: .*unknown keys \['kind'\]"),
    ("No {title}", "No {titel}", "[[modes.prompt.messages]]", r"found \['prompt', 'titel', 'description'\]"),
    ("No {title}", "No", "[[modes.prompt.messages]]", r"expected each of \['prompt', 'title', 'description'\] once"),
    (
        "[[questions]]",
        '[[questions]]\nfield = "other"\nanswers = [{ text = "a" }, { text = "b" }]\n\n[[questions]]',
        '[[policies]]\nname = "gam',
        "policies: expected one question",
    ),
]


def _ids(change: _Change) -> str:
    return " ".join(change[1].split())[:40] or "(nothing)"


@pytest.mark.parametrize(
    "change", [*_UNKNOWN, *_MISSING, *_TYPES, *_QUESTIONS, *_PROMPTS, *_ANSWERS, *_POLICY], ids=_ids
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_bad_files_name_the_line(change: _Change, ending: str, tmp_path: Path) -> None:
    old, new, place, says = change
    base = POLICIES if change in _POLICY else EXAMPLE
    assert old in base
    # The second of two messages or questions is changed where both would fit.
    text = new.join(base.rsplit(old, 1)) if old in ('role = "user"\n',) else base.replace(old, new, 1)
    assert place in text
    with pytest.raises(InputError, match=says) as caught:
        read_family(write_family(tmp_path, text.replace("\n", ending)))
    assert type(caught.value) is InputError
    line = text[: text.index(place)].count("\n") + 1
    assert str(caught.value).startswith(f"my_guard.toml, line {line}: "), caught.value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"line 1: missing keys \['modes', 'name', 'questions'\], unknown keys \[\]"),
        ("# nothing\n\n", "line 1: missing keys"),
        ("name = 'x'\nmodes = {}\nquestions = []", "line 2: modes: expected prompt and/or response, found none"),
        (EXAMPLE.replace("[[questions]]", "[[questions]", 1), r"is not TOML: .*\(at line 28,"),
        (EXAMPLE.replace('"my-guard"', "my-guard"), r"is not TOML: .*\(at line 1,"),
        (EXAMPLE.replace('"my-guard"', '"my-guard"\nname = "x"'), r"is not TOML: .*\(at line 2,"),
        (EXAMPLE.replace("my-guard", r"\ud800"), r"is not TOML: .*\(at line 1,"),
        (EXAMPLE.replace("my-guard", "a\x00b"), r"is not TOML: .*\(at line 1,"),
        ('{"name": "x"}', r"is not TOML: .*\(at line 1,"),
        (EXAMPLE.encode().replace(b"my-guard", b"a\nb\xffc"), "line 2: not UTF-8 .*; save the file as UTF-8"),
        (EXAMPLE.encode("utf-16"), "line 1: not UTF-8"),
        ("name = " + "[" * 100_000, "my_guard.toml is not a family: its values are nested too deep"),
        ("name = " + "{a=" * 100_000, "nested too deep"),
        (".".join(["a"] * 2000) + " = 1", r"missing keys .*unknown keys \['a'\]"),
        ("name = " + "[" * 200 + "]" * 200, "line 1: missing keys"),
    ],
    ids=lambda value: str(value[:20]).strip(),
)
def test_what_is_no_family(content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_family(write_family(tmp_path, content))
    assert type(caught.value) is InputError
    assert str(caught.value).startswith("my_guard.toml")
    assert len(str(caught.value)) < 1000


def test_what_is_nowrite_family(tmp_path: Path) -> None:
    for path, says in [
        (tmp_path / "absent.toml", "cannot read the family absent.toml: No such file"),
        (tmp_path, "cannot read the family .*: Is a directory"),
        (tmp_path / "a\0.toml", "cannot read the family .*: embedded null byte"),
    ]:
        with pytest.raises(InputError, match=says):
            read_family(path)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is done to a good file: a family, or an InputError with the line."""
    base = data.draw(st.sampled_from([EXAMPLE, POLICIES]))
    start = data.draw(st.integers(0, len(base)))
    end = start + data.draw(st.integers(0, 12))
    new = data.draw(st.text(st.sampled_from("{}[]\"'=.,|#\n\\ax1 ") | st.characters(), max_size=4))
    path = write_family(tmp_path, (base[:start] + new + base[end:]).encode("utf-8", "surrogatepass"))
    message = ""
    try:
        validate(read_family(path))
    except InputError as error:
        message = str(error)
    assert not message or message.startswith("my_guard.toml")
    assert not message or "line " in message or "end of document" in message


# Lines, by values that say where they stand.

_LAYOUTS = [
    """
a = "a" # b.c = 1
b.c = "b.c"
b . d = 'b.d'
"e" = 'e'
'f f'."g" = "f f.g"
[h]
i = "h.i"   # [x]
[h.j]
k = ["h.j.k[0]", "h.j.k[1]",
     "h.j.k[2]", # "not, [this
     ["h.j.k[3][0]",
      [ "h.j.k[3][1][0]" ], { l = "h.j.k[3][2].l", m.n = ["h.j.k[3][2].m.n[0]"] }],

     "h.j.k[4]"
]
[ o . p ]
q = "o.p.q"
[[r]]
s = "r[0].s"
t = { u = "r[0].t.u", v = "r[0].t.v" }
[r.w]
x = "r[0].w.x"
[[r.y]]
z = "r[0].y[0].z"
[[r.y]]
z = "r[0].y[1].z"
[r.y.deep]
z = "r[0].y[1].deep.z"
[[r]]
s = "r[1].s"
[[r.y]]
z = "r[1].y[0].z"
[last]
a = "last.a"
""",
    r'''
text = """
a = 1
[b]
""" # a
quotes = """""two""\"" and \\"""""
single = "\"" # '
backslash = '\' # "
literal = QQQ
[[c]] \QQQ''
a = "a"
empty = ["", """""", '', QQQQQQ, "empty[4]"]
[b]
more = [ """
[[c]] = 1
""", QQQ
QQQ, "b.more[2]"]
a = "b.a"
[[c]]
date = 1979-05-27 07:32:00Z
float = -1.5e+3
a = "c[0].a"
[[c]]
a = "c[1].a"
'''.replace("QQQ", "'''"),
]


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_line_of_every_value(layout: str, ending: str) -> None:
    text = layout.replace("\n", ending)
    checked = 0
    for path, value in _leaves(tomllib.loads(text), ""):
        if value == path:
            line = next(n for n, row in enumerate(text.split("\n"), 1) if f'"{path}"' in row or f"'{path}'" in row)
            assert line_of(text, path) == line, path
            assert line_of(text, path + ".absent") == line_of(text, path + "[7].absent") == line
            checked += 1
    assert checked >= 6


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def test_the_line_of_a_table_and_of_nothing() -> None:
    text = "x = 1\n[a.b]\nc = 1\n[[d]]\n[[d]]\n"
    expected = {
        "a": 2,
        "a.b": 2,
        "a.b.x": 2,
        "a.x": 2,
        "d": 4,
        "d[0]": 4,
        "d[1].y": 5,
        "d[9]": 4,
        "z": 1,
        "": 1,
        "[": 1,
    }
    assert {path: line_of(text, path) for path in expected} == expected
