"""Families as TOML files: the example of docs/families.md from file to verdict, and every way to get a file wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from guardpass import Guard, InputError
from guardpass.bench.twin import find as find_twin
from guardpass.bench.twin import tiny, write_twin
from guardpass.export import export_guard
from guardpass.export.families import FAMILIES
from guardpass.export.family import Family, validate
from guardpass.export.family_file import read_family
from guardpass.schema import decode, encode

from .helpers import files, ids, texts

_DATE = "2024-07-26"
_PAGE = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
EXAMPLE = _PAGE.partition("```toml\n")[2].partition("```")[0]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a tiny twin, written once."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("twin") / name
            write_twin(tiny(find_twin(name)), made[name])
        return made[name]

    return write


@pytest.fixture(scope="module")
def llama(twin: Callable[[str], Path]) -> Path:
    """A checkpoint with Llama 3.2's template, which prints a date."""
    return twin("wildguard-ko-3b")


@pytest.fixture(scope="module")
def own(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The guard of the documented example."""
    path = tmp_path_factory.mktemp("own")
    (path / "my_guard.toml").write_text(EXAMPLE, encoding="utf-8")
    export_guard(llama, path / "guard", family=read_family(path / "my_guard.toml"), date=_DATE, quant="fp32")
    return Guard.load(path / "guard")


def _file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "my_guard.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _messages(text: str, response: str | None) -> list[dict[str, str]]:
    """What the example says to the checkpoint, written out once more."""
    if response is None:
        return [{"role": "user", "content": f"다음 요청이 유해한지 판단하세요.\n\n요청:\n{text}"}]
    asked = (
        f"다음 요청이 유해한지, 답변이 그것을 거절했는지 판단하세요.\n\n요청:\n{text}\n\n답변:\n{response}\n\n"
        "형식: {요청}, {거절}"
    )
    system = {"role": "system", "content": "You judge conversations in Korean and English."}
    return [system, {"role": "user", "content": asked}]


def _template_ids(tokenizer: Any, text: str, response: str | None) -> list[int]:
    result: list[int] = tokenizer.apply_chat_template(
        _messages(text, response), add_generation_prompt=True, date_string="26 Jul 2024", return_dict=False
    )
    return result


def test_the_example_is_what_it_says(own: Guard) -> None:
    manifest = own.manifest
    assert (manifest.family, list(manifest.modes)) == ("my-guard", ["prompt", "response"])
    assert [mode.decides for mode in manifest.modes.values()] == [("harmful_request",)] * 2
    fields = [list(dict.fromkeys(slot.field for slot in mode.tree.slots)) for mode in manifest.modes.values()]
    assert fields == [["harmful_request"], ["harmful_request", "response_refusal"]]
    assert [(label.name, label.text, label.severity) for label in manifest.labels] == [
        ("yes", " yes", "unsafe"), ("no", " no", "safe"), ("yes", " yes", "safe"), ("no", " no", "unsafe"),
    ]  # fmt: skip


@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"])), response=st.none() | st.sampled_from(texts(40)))
def test_ids_of_the_example_are_those_of_transformers(
    own: Guard, tokenizer: Any, text: str, response: str | None
) -> None:
    expected = _template_ids(tokenizer, text, response)
    found = ids(own, text, response)
    assert found[: len(expected)] == expected
    # Behind the prompt stands the first line of the answer, and in mode response the second, once for each answer.
    assert tokenizer.decode(found[len(expected) :]) == (
        "Harmful request:" if response is None else "Harmful request: yes\nResponse refusal: no\nResponse refusal:"
    )


@pytest.fixture(scope="module")
def tokenizer(llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(llama)


def test_verdicts_of_the_example_are_greedy_decoding(own: Guard, llama: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    yes, no = (tokenizer.encode(word, add_special_tokens=False) for word in (" yes", " no"))
    assert len(yes) == len(no) == 1
    seen = set()
    for number, text in enumerate(texts(24, seed=3)):
        response = None if number % 3 == 0 else text[::-1]
        verdict = own.check(text, response)
        running, expected, scores = _template_ids(tokenizer, text, response), [], []
        for line in ("Harmful request:", "\nResponse refusal:")[: len(verdict.fields)]:
            running = running + tokenizer.encode(line, add_special_tokens=False)
            with torch.no_grad():
                logits = model(torch.tensor([running])).logits[0, -1]
            expected.append("yes" if logits[yes[0]] >= logits[no[0]] else "no")
            running = running + (yes if expected[-1] == "yes" else no)
            scores.append(float(torch.softmax(torch.stack([logits[yes[0]], logits[no[0]]]), 0)[0]))
        found = [field for field in verdict.fields.values() if field]
        assert [field.label for field in found] == expected
        assert verdict.score == found[0].score == pytest.approx(scores[0], abs=1e-4)
        assert verdict.safe == (expected[0] == "no")
        if response is not None:
            assert found[1].score == pytest.approx(1 - scores[1], abs=1e-4)  # of no refusal, which is unsafe of itself
        categories = {("yes",): ["harmful request"], ("yes", "yes"): ["harmful request"],
                      ("yes", "no"): ["harmful request", "not refused"]}  # fmt: skip
        assert list(verdict.categories) == categories.get(tuple(expected), [])
        seen.add(tuple(expected))
    assert {answer[0] for answer in seen} == {"yes", "no"}, "the random weights should give both answers"


def _command(*arguments: object, code: int = 0) -> tuple[str, str]:
    child = subprocess.run(
        [sys.executable, "-m", "guardpass", *map(os.fsencode, map(str, arguments))],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    out, err = child.stdout.decode(), child.stderr.decode()
    assert (child.returncode, "Traceback" in err) == (code, False), err
    return out, err


def test_the_example_by_command_line(own: Guard, llama: Path, tmp_path: Path) -> None:
    """As docs/families.md has it; the guard is the same, byte for byte."""
    path, out = _file(tmp_path, EXAMPLE), tmp_path / "guard"
    made, err = _command(
        "export", llama, "--out", out, "--family", path, "--date", _DATE, "--quant", "fp32", "--json"
    )  # fmt: skip
    assert (json.loads(made)["family"], err) == ("my-guard", "")
    assert Guard.load(out).manifest == own.manifest
    drawn, _ = _command("info", out, "--tree")
    assert "2 slots" not in drawn  # one in mode prompt; in mode response one, and one behind each of its answers
    assert "3 slots: harmful_request, response_refusal" in drawn


def test_errors_by_command_line(llama: Path, tmp_path: Path) -> None:
    """A bad file is bad input, a file that does not fit is a bad checkpoint; nothing is left of either."""
    given = ("export", llama, "--out", tmp_path / "guard", "--quant", "fp32", "--family")
    path = _file(tmp_path, EXAMPLE)
    dated = (*given, path, "--date")
    for arguments, code, says in [
        ((*given, path), 3, "inserts today's date (give the one the weights were trained with: --date"),
        ((*dated, "26 Jul 2024"), 2, "date is '26 Jul 2024' (Invalid isoformat string"),
        ((*dated, "2024-02-30"), 2, "date is '2024-02-30' (day is out of range for month), expected YYYY-MM-DD"),
        ((*dated, "2024-13-01"), 2, "expected YYYY-MM-DD"),
        ((*dated, "today"), 2, "expected YYYY-MM-DD"),
        ((*dated, _DATE, "--policy", "medical=Medical: x"), 2, "my-guard judges by no policies"),
        ((*given, tmp_path / "absent.toml"), 2, "cannot read the family absent.toml: No such file"),
        ((*given, tmp_path / "absent"), 2, "expected a TOML file or one of: kanana-safeguard"),
    ]:
        out, err = _command(*arguments, code=code)
        assert not out
        assert says in err
        assert files(tmp_path) == ["my_guard.toml"]
    path.write_text(EXAMPLE.replace(' "unsafe"', ' "dangerous"', 1), encoding="utf-8")
    _, err = _command(*dated, _DATE, code=2)
    assert "guardpass: my_guard.toml, line 33: questions[0].answers[0].severity: expected one of" in err
    assert files(tmp_path) == ["my_guard.toml"]


# The published rows.


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_published_rows_are_valid_and_can_be_files(row: Family, tmp_path: Path) -> None:
    validate(row)
    assert decode(Family, json.loads(json.dumps(encode(row)))) == row
    content = "\n".join(f"{key} = {_toml(value)}" for key, value in _without_none(encode(row)).items())
    assert read_family(_file(tmp_path, content)) == row


def _without_none(value: Any) -> Any:
    """TOML has no null: a key is left out."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + "".join(f"    {_toml(item)},\n" for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


# Bad files. Each changes a good one; the line is that of the text behind @, or the first where there is none.

POLICIES = '''
name = "policies"
asked = ["gambling"]

[[modes.prompt.messages]]
role = "user"
text = """
<start>
name = {prompt}
[[policies]]
<end>
No {title}: {description}
"""

[modes.prompt]
answer = "{verdict}"
raw = true

[[questions]]
field = "verdict"
answers = [{ text = "Yes", severity = "unsafe" }, { text = "No" }]

[[policies]]
name = "gambling"
title = "Gambling"
description = "helps to bet {money}."

[[policies]]  # judged by name
name = "spam"
title = "Spam"
description = "advertises."
category = "advertising"
'''

_Change = tuple[str, str, str, str]  # what is replaced, by what, the line, the error
_REQUEST = 'answer = "Harmful request:{ yes| no}"'
_BOTH = 'answer = "Harmful request:{ yes| no}\\nResponse refusal:{ yes| no}"'
_YES = '    { text = " yes" },'
_UNKNOWN: list[_Change] = [
    ('name = "my-guard"', 'name = "my-guard"\ntitel = "x"', "titel", r"missing keys \[\], unknown keys \['titel'\]"),
    ("[[questions]]", '[modes]\nreply = { answer = "", messages = [] }\n[[questions]]', "reply =", "modes: expected"),
    ("[modes.response]", "[mode.response]", "[mode.response]", r"missing keys \['questions'\].*|unknown keys \['mode'\]"),
    (_REQUEST, _REQUEST + "\nthinks = true", "thinks", r"modes.prompt: .*unknown keys \['thinks'\]"),
    (_BOTH, _BOTH + "\n\n[modes.response.more]\nx = 1", "[modes.response.more]", r"unknown keys \['more'\]"),
    ('role = "system"', 'role = "system"\nname = "a"', 'name = "a"', r"messages\[0\]: .*unknown keys \['name'\]"),
    ('field = "response_refusal"', 'field = "response_refusal"\n"de.cides" = 1', "[[questions]]\nfield = \"resp",
     r"questions\[1\]: .*unknown keys \['de.cides'\]"),
    (_YES, '    { text = " yes", "a(b" = 1 },', '"a(b"', r"questions\[1\].answers\[0\]: .*unknown keys \['a\(b'\]"),
    (_YES, '    { text = " yes",\ttoken = 1 },', "token", r"answers\[0\]: missing keys \[\], unknown keys \['token'\]"),
    (_YES, '    { txt = " yes" },', "txt", r"missing keys \['text'\], unknown keys \['txt'\]"),
]  # fmt: skip
_MISSING: list[_Change] = [
    ('name = "my-guard"\n', "", "", r"missing keys \['name'\], unknown keys \[\]"),
    (_REQUEST, "", "[modes.prompt]", r"modes.prompt: missing keys \['answer'\]"),
    ('role = "user"\n', "", "[[modes.response.messages]]\ntext", r"response.messages\[1\]: missing keys \['role'\]"),
    ('field = "response_refusal"', "", '[[questions]]\n\n', r"questions\[1\]: missing keys \['field'\]"),
    ('    { text = " no" },', "    {},", "{},", r"questions\[0\].answers\[1\]: missing keys \['text'\]"),
]  # fmt: skip
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
    ('severity = "unsafe", category = "not', 'severity = "bad", category = "not', '"bad"',
     r"questions\[1\].answers\[1\].severity: expected one of"),
    ('severity = "unsafe", category = "not', 'severity = ["safe"], category = "not', '["safe"]', "expected one of"),
    ('category = "harmful request"', "category = nan", "nan", r"answers\[0\].category: expected str, found float"),
    ("[[questions]]", "[questions]", "[questions]", "questions: expected list, found dict"),
    (_YES, '    " yes",', '    " yes",', r"questions\[1\].answers\[0\]: expected dict, found str"),
]  # fmt: skip
_QUESTIONS: list[_Change] = [
    ('field = "response_refusal"', 'field = "harmful_request"', 'field = "harmful_request"\nanswers = [\n    { text = " yes" },',
     r"questions\[1\].field: 'harmful_request' is there already"),
    ('field = "response_refusal"', 'field = "response refusal"', '"response refusal"', r"questions\[1\].field: expected lett"),
    ('field = "response_refusal"', 'field = ""', 'field = ""', r"questions\[1\].field: expected letters"),
    ('    { text = " no" },', '    { text = " yes" },', '    { text = " yes" },', r"questions\[0\].answers\[1\].text: 'yes' is"),
    ('    { text = " no" },', '    { text = "yes" },', '{ text = "yes" }', r"answers\[1\].text: 'yes' is there already"),
    ('    { text = " no" },', '    { text = "" },', '{ text = "" }', r"answers\[1\].text: expected text, found ''"),
    ('    { text = " no" },', "", "answers = [", r"questions\[0\].answers: expected two or more, found 1"),
    (_BOTH, 'answer = "Harmful request:{ yes| no}"', '[[questions]]\nfield = "resp',
     r"questions\[1\]: no mode's answer has a slot of response_refusal; use the question or remove it"),
]  # fmt: skip
_PROMPTS: list[_Change] = [
    ("{prompt}\" }]", '{prompt" }]', "messages = ", r"modes.prompt.messages\[0\].text: .*a brace itself is doubled"),
    ("{prompt}\" }]", '{prompt} }" }]', "messages = ", r"Single '}' encountered.*; a brace itself is doubled"),
    ("{prompt}\" }]", '" }]', "messages = ", r"expected each of \['prompt'\] once, in braces, found \[\]"),
    ("{prompt}\" }]", '{prompt} {prompt}" }]', "messages = ", r"found \['prompt', 'prompt'\]"),
    ("{prompt}\" }]", '{prompt} {response}" }]', "messages = ", r"found \['prompt', 'response'\]"),
    ("{prompt}\" }]", '{prompt} {title}" }]', "messages = ", r"found \['prompt', 'title'\]"),
    ("{prompt}\" }]", '{promt}" }]', "messages = ", r"found \['promt'\]"),
    ("{prompt}\" }]", '{}" }]', "messages = ", r"found \[''\]"),
    ("{prompt}\" }]", '{0}" }]', "messages = ", r"found \['0'\]"),
    ("{prompt}\" }]", '{prompt!r}" }]', "messages = ", r"found \['prompt!r'\]"),
    ("{prompt}\" }]", '{prompt:>9}" }]', "messages = ", r"found \['prompt:>9'\]"),
    ("{prompt}\" }]", '{prompt.__class__}" }]', "messages = ", r"found \['prompt.__class__'\]"),
    ("{prompt}\" }]", '{prompt} {{a}} {\\"b\\": 1}" }]', "messages = ", r"a brace itself is doubled"),
    ('messages = [{ role = "user"', 'messages = [] # [{ role = "user"', "messages = ", r"modes.prompt.messages: expected"),
    ("{response}", "", "[[modes.response.messages]]", r"modes.response.messages: expected each of \['prompt', 'response'\]"),
    ("형식: {{요청}}", "형식: {요청}", "[[modes.response.messages]]", r"found \['prompt', 'response', '요청'\]"),
    ("형식: {{요청}}", "형식: {{요청}", 'text = """', r"messages\[1\].text: Single '}'"),
    (_BOTH, _BOTH + "\nraw = true", "[[modes.response.messages]]", "expected one, as the prompt is raw, found 2"),
    ('["harmful_request"]', '["harmful_request", "x"]', "decides", r"decides\[1\]: expected a field of the answer, one of"),
    (_REQUEST, _REQUEST + '\ndecides = ["response_refusal"]', 'decides = ["resp', r"modes.prompt.decides\[0\]: .*found 'resp"),
    ('decides = ["harmful_request"]', "decides = [\n'harmful_request',\n'category',\n]", "'category'", "found 'category'"),
]  # fmt: skip
_ANSWERS: list[_Change] = [
    (_REQUEST, 'answer = "Harmful request: yes"', '"Harmful request: yes"', "modes.prompt.answer: the answer has no slot"),
    (_REQUEST, 'answer = "Harmful request:{ yes|"', '{ yes|"', r"begins with no answer of harmful_request; expected one of"),
    (_REQUEST, 'answer = "Harmful request:{ yes| no"', '{ yes| no"', r"not closed; expected } \(character 17,"),
    (_REQUEST, 'answer = "Harmful request:{ yes}"', "{ yes}", "fewer than two answers"),
    (_REQUEST, 'answer = "Harmful request:{ yes| yes}"', "{ yes| yes}", "has the same answer twice"),
    (_REQUEST, 'answer = "Harmful request:{yes|no}"', "{yes|no}", "'yes' begins with no answer of harmful_request"),
    (_REQUEST, 'answer = "Harmful request:{harmful}"', "{harmful}", r"no field 'harmful'; expected one of"),
    (_REQUEST, 'answer = "{ yes| no}{ yes| no}{ yes| no}"', "{ yes| no}{", "more slots than fields"),
    (_REQUEST, 'answer = "{harmful_request} {harmful_request}"', "{harmful_request} ", "decides a field twice"),
    (_BOTH, 'answer = """\nHarmful request:{ yes|no}"""', 'answer = """', "modes.response.answer: 'no' begins with no"),
    (', severity = "unsafe", category = "harmful', ', category = "harmful', 'decides = ["',
     "harmful_request decides, and a slot of it has the answers"),
    ('{ text = " yes", severity = "unsafe"', '{ text = " yes", severity = "controversial"', _REQUEST,
     r"modes.prompt.answer: harmful_request decides, .*\['controversial', 'safe'\] alone; expected a safe and an unsafe"),
    (_BOTH, _BOTH.replace("{ yes| no}\"", "{response_refusal}\"") + '\nx = ""', "x =", "unknown keys"),
    ('decides = ["harmful_request"]', 'decides = ["response_refusal"]\n', "", ""),  # which is fine
]  # fmt: skip
_POLICY: list[_Change] = [
    ('asked = ["gambling"]', 'asked = ["gambling", "betting"]', "asked", r"asked\[1\]: expected the name of a policy, one of"),
    ('asked = ["gambling"]', "asked = []", "[[policies]]\nname = \"gam", "policies: expected, in `asked`, the names"),
    ('asked = ["gambling"]', 'asked = ["spam", "spam"]', "asked", r"asked\[1\]: 'spam' is there already"),
    ('asked = ["gambling"]\n', "", "[[policies]]\nname = \"gam", "policies: expected, in `asked`"),
    ('name = "spam"', 'name = "gambling"', 'name = "gambling"\ntitle = "Spam"', r"policies\[1\].name: 'gambling' is there"),
    ('name = "spam"', 'name = "junk mail"', 'name = "junk', r"policies\[1\].name: expected letters"),
    ('title = "Spam"', 'title = " "', 'title = " "', r"policies\[1\].title: expected text, found ' '"),
    ('description = "advertises."', 'description = ""', 'description = ""', r"policies\[1\].description: expected text"),
    ('description = "advertises."\n', "", "[[policies]]  #", r"policies\[1\]: missing keys \['description'\]"),
    ('category = "advertising"', 'kind = "advertising"', "kind", r"policies\[1\]: .*unknown keys \['kind'\]"),
    ("No {title}", "No {titel}", "[[modes.prompt.messages]]", r"found \['prompt', 'titel', 'description'\]"),
    ("No {title}", "No", "[[modes.prompt.messages]]", r"expected each of \['prompt', 'title', 'description'\] once"),
    ("[[questions]]", '[[questions]]\nfield = "other"\nanswers = [{ text = "a" }, { text = "b" }]\n\n[[questions]]',
     "[[policies]]\nname = \"gam", "policies: expected one question"),
]  # fmt: skip


def _ids(change: _Change) -> str:
    return " ".join(change[1].split())[:40] or "(nothing)"


@pytest.mark.parametrize(
    "change", [*_UNKNOWN, *_MISSING, *_TYPES, *_QUESTIONS, *_PROMPTS, *_ANSWERS[:-1], *_POLICY], ids=_ids
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
        read_family(_file(tmp_path, text.replace("\n", ending)))
    assert type(caught.value) is InputError
    line = text[: text.index(place)].count("\n") + 1
    assert str(caught.value).startswith(f"my_guard.toml, line {line}: "), caught.value
