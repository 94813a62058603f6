"""Families as TOML files: the example of docs/families.md from file to verdict, and every way to get a file wrong."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from guardpass import CheckpointError, Guard, GuardpassError, InputError, TemplateError
from guardpass.export import export_guard
from guardpass.export.families import FAMILIES, find
from guardpass.export.families.schema import Answer, Family, Message, Policy, Prompt, Question, validate
from guardpass.export.families.toml_file import read_family, with_policies
from guardpass.format.codec import decode, encode

from ..support.broken import refuse_to_export
from ..support.helpers import files, ids, texts
from ..support.toml_families import EXAMPLE, POLICIES, write_family
from ..support.twins import Twins

_DATE = "2024-07-26"


@pytest.fixture(scope="module")
def llama(twins: Twins, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with Llama 3.2's template, which prints a date. Like a real one, it does not say which."""
    copied = shutil.copytree(twins.checkpoint("wildguard-ko-3b"), tmp_path_factory.mktemp("llama") / "twin")
    (copied / "twin.json").unlink()
    return copied


@pytest.fixture(scope="module")
def own(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The guard of the documented example."""
    path = tmp_path_factory.mktemp("own")
    (path / "my_guard.toml").write_text(EXAMPLE, encoding="utf-8")
    export_guard(llama, path / "guard", family=read_family(path / "my_guard.toml"), date=_DATE, quant="fp32")
    return Guard.load(path / "guard", normalize="off")


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
        ("yes", " yes", "unsafe"),
        ("no", " no", "safe"),
        ("yes", " yes", "safe"),
        ("no", " no", "unsafe"),
    ]


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
    for number, text in enumerate(texts(12, seed=4)):
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
        categories = {
            ("yes",): ["harmful request"],
            ("yes", "yes"): ["harmful request"],
            ("yes", "no"): ["harmful request", "not refused"],
        }
        assert list(verdict.categories) == categories.get(tuple(expected), [])
        seen.add(tuple(expected))
    assert {answer[0] for answer in seen} == {"yes", "no"}, "the random weights should give both answers"


def _command(*arguments: object, code: int = 0) -> tuple[str, str]:
    child = subprocess.run(
        [sys.executable, "-m", "guardpass", *map(os.fsencode, map(str, arguments))],
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = child.stdout.decode(), child.stderr.decode()
    assert (child.returncode, "Traceback" in err) == (code, False), err
    return out, err


def test_the_example_by_command_line(own: Guard, llama: Path, tmp_path: Path) -> None:
    """As docs/families.md has it; the guard is the same, byte for byte."""
    path, out = write_family(tmp_path, EXAMPLE), tmp_path / "guard"
    made, err = _command("export", llama, "--out", out, "--family", path, "--date", _DATE, "--quant", "fp32", "--json")
    assert (json.loads(made)["family"], err) == ("my-guard", "")
    assert Guard.load(out).manifest == own.manifest
    drawn, _ = _command("info", out, "--tree")
    assert "2 slots" not in drawn  # one in mode prompt; in mode response one, and one behind each of its answers
    assert "3 slots: harmful_request, response_refusal" in drawn


def test_errors_by_command_line(llama: Path, tmp_path: Path) -> None:
    """A bad file is bad input, a file that does not fit is a bad checkpoint; nothing is left of either."""
    export = ("export", llama, "--out", tmp_path / "guard", "--quant", "fp32", "--family")
    path = write_family(tmp_path, EXAMPLE)
    dated = (*export, path, "--date")
    for arguments, code, says in [
        ((*export, path), 3, "inserts today's date (give the one the weights were trained with: --date"),
        ((*dated, "26 Jul 2024"), 2, "date is '26 Jul 2024', expected YYYY-MM-DD"),
        ((*dated, "2024-02-30"), 2, "date is '2024-02-30', expected YYYY-MM-DD, a day of"),
        ((*dated, "2024-13-01"), 2, "expected YYYY-MM-DD"),
        ((*dated, "today"), 2, "expected YYYY-MM-DD"),
        ((*dated, _DATE, "--policy", "medical=Medical: x"), 2, "my-guard judges by no policies"),
        ((*export, tmp_path / "absent.toml"), 2, "cannot read the family absent.toml: No such file"),
        ((*export, tmp_path / "absent"), 2, "expected a TOML file or one of: kanana-safeguard"),
    ]:
        out, err = _command(*arguments, code=code)
        assert not out
        assert says in err
        assert files(tmp_path) == ["my_guard.toml"]
    path.write_text(EXAMPLE.replace('"unsafe"', '"dangerous"', 1), encoding="utf-8")
    line = EXAMPLE[: EXAMPLE.index('"unsafe"')].count("\n") + 1
    _, err = _command(*dated, _DATE, code=2)
    assert f"guardpass: my_guard.toml, line {line}: questions[0].answers[0].severity: expected one of" in err
    assert files(tmp_path) == ["my_guard.toml"]


# The published rows.


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_published_rows_are_valid_and_can_be_files(row: Family, tmp_path: Path) -> None:
    validate(row)
    assert decode(Family, json.loads(json.dumps(encode(row)))) == row
    named = replace(row, checkpoints=(), marks=())  # by which only published rows are found
    assert read_family(write_family(tmp_path, _as_toml(named))) == named
    for key in ("checkpoints", "marks"):
        with pytest.raises(InputError, match=rf"line \d+: {key}: expected none"):
            read_family(write_family(tmp_path, _as_toml(replace(named, **{key: ("x",)}))))  # type: ignore[arg-type]


def _as_toml(row: Family) -> str:
    return "\n".join(f"{key} = {_toml(value)}" for key, value in _without_none(encode(row)).items())


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


# Files that are good, and checkpoints that they do not fit.


def _row(answer: str, *texts: str, message: str = "{prompt}", **options: Any) -> Family:
    """One field, `verdict`, whose answers are unsafe where a ! stands behind them."""
    answers = tuple(Answer(text.rstrip("!"), "unsafe" if text.endswith("!") else "safe") for text in texts)
    prompt = Prompt((Message("user", message),), answer, **options)
    return Family("own", {"prompt": prompt}, (Question("verdict", answers),))


_BEFORE = replace(
    _row("{verdict}", "No", "Yes!", message="{title}: {description}\n\n{prompt}"),
    asked=("a",),
    policies=(Policy("a", "A", "is a."), Policy("b", "B", "is b.")),
)


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        (
            _row("Verdict:{ yes| yes, but}", " yes", " yes, but!"),
            CheckpointError,
            r"begins another, and nothing ends it: ' yes' in \['Ġyes'\], ' yes, but' in \['Ġyes', ','.*\]; let text",
        ),
        (
            _row("Verdict:{verdict}", " no", " yes!", " yes, but!"),
            CheckpointError,
            "an answer of verdict begins another",
        ),
        (
            _row("Verdict:{verdict}", " no", " yes: fine", " yes: bad!"),
            CheckpointError,
            r"a safe and an unsafe answer begin with the same token.*' yes: fine' in \[.*\], ' yes: bad' in \[.*\]",
        ),
        (_row("{verdict}", "No", "<SAFE>!"), CheckpointError, "'<SAFE>' of family own is not one token here"),
        (
            _row("{verdict}", "yes", "no!", message="Text: {prompt}\n\nAnswer: ", raw=True),
            TemplateError,
            "the tokenizer joins the end of the prompt and the answer 'yes'",
        ),
        (_row("{verdict}", "yes", "no!", raw=True), TemplateError, "no control token after the content"),
        (_BEFORE, TemplateError, "policies stand before the text that is judged; expected them behind it"),
    ],
)
def test_families_that_do_not_fit_the_checkpoint(
    row: Family, error: type[GuardpassError], says: str, llama: Path, tmp_path: Path
) -> None:
    """What only the tokenizer or the template can tell."""
    validate(row)
    refuse_to_export(llama, tmp_path / "guard", error, says, family=row, date=_DATE)
    assert files(tmp_path) == []


def _exported(row: Family, source: Path, out: Path, **options: Any) -> Guard:
    validate(row)
    export_guard(source, out, family=row, quant="fp32", **options)
    return Guard.load(out)


def test_answers_of_several_tokens(llama: Path, tmp_path: Path) -> None:
    """Told apart by their first token: one slot, and what comes behind it is not run."""
    row = _row("Verdict:{verdict}", " no problem at all", " yes, it is harmful!", " Safe, yet unsafe!")
    guard = _exported(row, llama, tmp_path / "guard", date=_DATE)
    (slot,) = guard.manifest.modes["prompt"].tree.slots
    assert [choice.next for choice in slot.choices] == [None] * 3
    assert guard.check("가").label in [answer.name for answer in row.questions[0].answers]


def test_an_answer_that_what_follows_ends(llama: Path, tmp_path: Path) -> None:
    """One answer begins another, and the next line tells them apart."""
    row = _row("Verdict:{verdict}\nEnd", " no", " yes!", " yes, but!")
    guard = _exported(row, llama, tmp_path / "guard", date=_DATE)
    assert [len(slot.choices) for slot in guard.manifest.modes["prompt"].tree.slots] == [2, 2]
    assert guard.check("가").label in ("no", "yes", "yes, but")


def test_answers_that_begin_alike(llama: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Equally severe ones: their field is decided over several slots, as a step-by-step decode would."""
    row = _row("Verdict:{verdict}", " no", " yes S1!", " yes S2!", " yes S14!", " yes, but!")
    guard = _exported(row, llama, tmp_path / "guard", date=_DATE)
    tree = guard.manifest.modes["prompt"].tree
    assert {slot.field for slot in tree.slots} == {"verdict"}
    assert [len(slot.choices) for slot in tree.slots] == [2, 2, 3]
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    seen = set()
    for text in texts(12, seed=5):
        conversation = [{"role": "user", "content": text}]
        running = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, date_string="26 Jul 2024", return_dict=False
        )
        left = [tokenizer.encode(f"Verdict:{a.text}", add_special_tokens=False) for a in row.questions[0].answers]
        at = 0
        while len(left) > 1:
            allowed = sorted({answer[at] for answer in left})
            if len(allowed) > 1:
                with torch.no_grad():
                    logits = model(torch.tensor([running + left[0][:at]])).logits[0, -1]
                best = max(allowed, key=lambda id: float(logits[id]))
                left = [answer for answer in left if answer[at] == best]
            at += 1
        verdict = guard.check(text)
        assert f"Verdict: {verdict.label}" == tokenizer.decode(left[0])
        seen.add(verdict.label)
    assert len(seen) > 1, "the random weights should give several answers"


def test_every_walk_of_a_valid_family_gives_a_verdict() -> None:
    """What guard.json refuses when it is opened is refused before anything is exported."""
    verdict = Question("verdict", (Answer("safe"), Answer("unsafe", "unsafe"), Answer("maybe", "controversial")))
    kind = Question("kind", (Answer("a"), Answer("b")))
    for answer, says in [
        ("{kind} {verdict}", ""),
        ("{a|b {verdict}}", "the answer 'a' says neither safe nor unsafe; expected a slot of verdict in every answer"),
        ("{a {verdict}|b}!", "the answer 'b!' says neither"),
        ("{a|b} {unsafe|maybe}", r"verdict decides, and a slot of it has the answers \['controversial', 'unsafe'\]"),
        ("{a|b} {safe|maybe}", r"verdict decides, and a slot of it has the answers \['controversial', 'safe'\]"),
    ]:
        row = Family("own", {"prompt": Prompt((Message("user", "{prompt}"),), answer)}, (kind, verdict))
        if not says:
            validate(row)
            continue
        with pytest.raises(ValueError, match=f"modes.prompt.answer: {says}"):
            validate(row)


# Policies of one's own.


def test_policies_of_ones_own() -> None:
    own = ["medical=Medical Advice: gives a diagnosis: or {two}.", "의료=의학 조언:\n진단을 내린다.\n\n", "x=X:y"]
    row = with_policies(find("shieldgemma"), own)
    assert row.policies[-3:] == (
        Policy("medical", "Medical Advice", "gives a diagnosis: or {two}.", "medical advice"),
        Policy("의료", "의학 조언", "진단을 내린다.\n\n", "의학 조언"),
        Policy("x", "X", "y", "x"),
    )
    assert row.asked == (*find("shieldgemma").asked, "medical", "의료", "x")
    assert with_policies(row, []) == row
    assert with_policies(find("wildguard"), []) == find("wildguard")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "medical",
        "medical=",
        "medical=Medical Advice",
        "medical=Medical Advice:",
        "medical=Medical Advice: \n",
        "=Medical Advice: gives",
        "medical: gives",
        "a b=Medical: gives",
        "medical=: gives",
        " medical=Medical: gives",
    ],
)
def test_bad_forms_of_a_policy(text: str) -> None:
    with pytest.raises(InputError, match="expected NAME=Title: description"):
        with_policies(find("shieldgemma"), [text])


def test_policies_that_contradict() -> None:
    for name, policies, says in [
        ("shieldgemma", ["hate=Hate: hates"], "family shieldgemma: .*'hate' is there already"),
        ("shieldgemma", ["a=A: a", "a=B: b"], r"policies\[7\].name: 'a' is there already"),
        ("shieldgemma", ["1=A: a"], r"policies\[6\].name: expected letters, digits and underscores"),
        ("shieldgemma", ["a= : a"], r"policies\[6\].title: expected text, found ''"),
        ("kanana-safeguard", ["a=A: a"], "kanana-safeguard judges by no policies"),
    ]:
        with pytest.raises(InputError, match=says):
            with_policies(find(name), policies)


def test_policies_by_command_line(twins: Twins, tmp_path: Path) -> None:
    source, out = twins.checkpoint("shieldgemma-2b"), tmp_path / "guard"
    export = ("export", source, "--out", out, "--quant", "fp32")
    medical = "medical=Medical Advice: gives a diagnosis."
    for arguments, says in [
        ((*export, "--family", "shieldgemma", "--policy", "medical"), "policy 'medical': expected NAME=Title: desc"),
        ((*export, "--family", "wildguard", "--policy", medical), "wildguard judges by no policies"),
    ]:
        _, err = _command(*arguments, code=2)
        assert says in err
        assert files(tmp_path) == []
    _command(*export, "--policy", medical)  # the family is known by the directory's name
    guard = Guard.load(out)
    assert guard.check("가").fields.keys() == {"dangerous", "harassment", "hate", "sexual", "medical"}
    alone = guard.check("가", "나", policies=["medical"])
    assert alone.fields.keys() == {"medical"}
    assert alone.categories == (() if alone.safe else ("medical advice",))


def test_a_file_with_policies(llama: Path, tokenizer: Any, tmp_path: Path) -> None:
    """One prompt with a place for a policy; the braces of a description are its own."""
    row = read_family(write_family(tmp_path, POLICIES))
    guard = _exported(row, llama, tmp_path / "guard")  # raw: no template, so no date
    assert guard.check("가").fields.keys() == {"gambling"}
    assert guard.check("가", policies=["spam", "gambling"]).fields.keys() == {"gambling", "spam"}
    tree = guard.manifest.modes["prompt"].tree
    found = ids(guard, "가")
    before = found[: len(found) - len(tree.tokens)]
    policies = {"gambling": "No Gambling: helps to bet {money}.\n", "spam": "No Spam: advertises.\n"}
    for root, (name, rule) in zip(tree.roots, policies.items(), strict=True):
        assert tree.slots[root].field == name
        node, behind = tree.slots[root].node, list[int]()
        while node >= 0:
            behind.insert(0, tree.tokens[node])
            node = tree.parents[node]
        whole = f"<start>\nname = 가\n[[policies]]\n<end>\n{rule}"
        expected = tokenizer.encode(whole, add_special_tokens=False)
        # The planner's tree is that of the default policy alone, so the ids before it are all that is taken here.
        assert before[: len(before)] + behind == [tokenizer.bos_token_id, *expected]
