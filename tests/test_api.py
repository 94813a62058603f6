"""The public API as a typed user script sees it, and what a guard says of itself."""

import subprocess
import sys
from pathlib import Path

import pytest

import guardpass
from guardpass import Guard, Panel

ROOT = Path(__file__).parents[1]
SCRIPT = '''
"""Every call of the public API."""

import asyncio
from concurrent.futures import Future

from guardpass import (
    Bounds, CheckOptions, Device, Guard, GuardpassError, Label, LongText, Mode, Normalize, OnError, Overloaded, Panel,
    PanelVerdict, Session, SubmitOptions, Verdict,
)
from guardpass.export import export_guard

device: Device = "cpu"
long_text: LongText = "windows"
normalize: Normalize = "off"
on_error: OnError = "block"
mode: Mode = "prompt"
manifest = export_guard("checkpoint", "guard", engine="native", quant="int8")
guard = Guard.load(
    "guard", threads=2, device=device, verify=False, max_tokens=512, max_windows=4, long_text=long_text,
    normalize=normalize, queue=Bounds(requests=8, tokens=1000), in_memory=True,
)
options: CheckOptions = {"policies": ["hate"], "threshold": {"hate": 0.4}, "strict": False}
timed: SubmitOptions = {"timeout": 1.0, "priority": 1, "on_error": "block", "strict": False}
verdict: Verdict = guard.check("text", "reply", on_error=on_error, **options)
verdict = guard.check("text", temperature=2.0, alpha=0.1, normalize="on")
future: Future[Verdict] = guard.submit("text", timeout=1.0, priority=1, on_error="raise", threshold=0.5)
futures: Future[list[Verdict]] = guard.submit_many(["text", ("text", "reply")], timeout=1.0, policies=None)
verdicts: list[Verdict] = list(guard.check_many(["text", ("text", None)], strict=True))


async def main() -> float:
    try:
        awaited = await guard.acheck("text", timeout=1.0, priority=2, on_error="allow", strict=False)
    except Overloaded as error:
        return error.retry_after
    except GuardpassError as error:
        print(error.kind, error.status, error.exit_code)
        raise
    both: PanelVerdict = await Panel([guard]).acheck("text", "reply", **timed)
    return awaited.score + both.score + (await guard.acheck("text", **timed)).score


asyncio.run(main())
session: Session
with guard.stream("text", threshold=0.5) as session:
    grown: Verdict = session.feed("reply")
panel = Panel([guard], policy="weighted", order="cheapest", weights={"a": 2.0}, threshold=0.4)
together: PanelVerdict = panel.check("text", timeout=1.0, strict=False)
name: str = guard.name + guard.family + repr(guard)
modes: tuple[Mode, ...] = guard.modes
policies: dict[Mode, tuple[str, ...]] = guard.policies
labels: dict[str, tuple[Label, ...]] = guard.labels
thresholds: dict[Mode, dict[str, float]] = guard.thresholds
field = verdict.fields["verdict"]
if field is not None:
    share: float = field.labels[field.label]
total: float = verdict.ms.total + verdict.tokens.run + verdict.score + verdict.margin
ok: bool = verdict.safe and verdict.normalized and verdict.truncated
closed: bool = guard.close(timeout=1.0)
'''
_SLIPS = (
    'guard.check("text", polices=["hate"])',
    'await_me = guard.acheck("text", polices=["hate"])',
    'guard.submit("text", threshold="high")',
    'guard.submit_many(["text"], strict=1)',
    'guard.stream("text", on_error="raise")',
    'panel.check("text", treshold=0.4)',
    'guard.check("text", on_error="bloc")',
    'guard.check("text", normalize="maybe")',
    'late = guard.acheck("text", timeout="soon")',
    'all_late = panel.acheck("text", priority="high")',
)


def _check(tool: list[str], folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(source, encoding="utf-8")
    return subprocess.run([sys.executable, "-m", *tool, str(script)], cwd=folder, capture_output=True, text=True)


# With the project's own strict configuration and cache, which `make check` has filled.
_MYPY = ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
_PYRIGHT = ["basedpyright", "--level", "error", "--pythonpath", sys.executable]


@pytest.mark.parametrize("tool", [_MYPY, _PYRIGHT], ids=["mypy", "basedpyright"])
def test_a_script_with_every_call_is_typed(tool: list[str], tmp_path: Path) -> None:
    done = _check(tool, tmp_path, SCRIPT)
    assert done.returncode == 0, done.stdout + done.stderr
    slips = SCRIPT + "".join(f"\n{slip}" for slip in _SLIPS)
    done = _check(tool, tmp_path, slips)
    assert done.returncode != 0
    first = SCRIPT.count("\n") + 2
    for number, slip in enumerate(_SLIPS, start=first):
        assert f"script.py:{number}:" in done.stdout, f"{slip} is not refused: {done.stdout}"


def test_a_guard_says_what_it_is(guard: Guard, two_sided: Path) -> None:
    manifest = guard.manifest
    assert (guard.name, guard.family, guard.modes) == (manifest.name, manifest.family, ("prompt", "response"))
    assert guard.policies == {"prompt": (), "response": ()}
    assert guard.labels == {"verdict": manifest.labels}
    assert guard.thresholds == {"prompt": {}, "response": {}}
    with Guard.load(two_sided) as other:
        assert repr(other) == f"<Guard {guard.name}: kanana-safeguard, onnx fp32, modes prompt, response>"
    assert repr(other).endswith(", closed>")


def test_a_verdict_has_no_truth_value(guard: Guard) -> None:
    for verdict in (guard.check("text"), Panel([guard]).check("text")):
        with pytest.raises(TypeError, match="read its attribute `safe`"):
            bool(verdict)


def test_public_names_are_documented() -> None:
    for name in guardpass.__all__:
        assert getattr(guardpass, name) is not None
    for cls in (guardpass.Verdict, guardpass.Guard, guardpass.Panel, guardpass.Session):
        for name, member in vars(cls).items():
            if not name.startswith("_") and callable(member):
                assert member.__doc__, f"{cls.__name__}.{name} has no docstring"
