"""Export as a program: all or nothing, whenever it is stopped; quantized guards beside their reference."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guardpass import CheckpointError, Guard, InputError
from guardpass.bench.twins import find, tiny, write_twin
from guardpass.export import export_guard
from guardpass.export.guard_dir.manifest import guard_name
from guardpass.format.integrity import open_guard

from ..support.helpers import files, scores, texts
from ..support.twins import VARIANTS


def _start(checkpoint: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "guardpass", "export", str(checkpoint), "--out", str(out), "--quant", "fp32"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("round_", range(6))
def test_killed_at_any_moment_it_leaves_no_guard_or_a_whole_one(
    round_: int, plain_checkpoint: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    _start(plain_checkpoint, tmp_path / "first").wait()
    whole = time.monotonic() - started
    process = _start(plain_checkpoint, tmp_path / "guard")
    time.sleep(whole * random.Random(round_).uniform(0.5, 1.0))
    process.kill()
    process.wait()
    if (tmp_path / "guard").exists():
        open_guard(tmp_path / "guard")


def test_terminated_it_leaves_nothing_at_all(plain_checkpoint: Path, tmp_path: Path) -> None:
    process = _start(plain_checkpoint, tmp_path / "guard")
    while process.poll() is None:
        if any(name.startswith(".guard.partial-") for name in files(tmp_path)):
            process.send_signal(signal.SIGTERM)
            process.wait()
    assert process.returncode in (0, 128 + signal.SIGTERM)
    assert files(tmp_path) == (["guard"] if process.returncode == 0 else [])


def test_an_existing_guard_is_replaced_only_when_told(plain_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "guard"
    export_guard(plain_checkpoint, out, quant="int8", gate=False)
    with pytest.raises(InputError, match="--force"):
        export_guard(plain_checkpoint, out, quant="fp32")
    assert open_guard(out).engine.quant == "int8"
    export_guard(plain_checkpoint, out, quant="fp32", force=True)
    assert open_guard(out).engine.quant == "fp32"
    assert files(tmp_path) == ["guard"]


def test_the_manifest_names_its_source(plain_checkpoint: Path, tmp_path: Path) -> None:
    """A snapshot of the hub's cache: files are links into blobs, the folder is the commit."""
    commit = "2f4a68641d818caf873e21badcdc161928b0fcbf"
    snapshot = tmp_path / "models--kakaocorp--kanana-safeguard-8b" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in plain_checkpoint.iterdir():
        (snapshot / path.name).symlink_to(path)
    source = export_guard(snapshot, tmp_path / "guard", quant="int8", gate=False).source
    assert (source.name, source.revision) == ("kakaocorp/kanana-safeguard-8b", commit)
    assert source.files.keys() == {path.name for path in plain_checkpoint.iterdir()} - {"model.safetensors.index.json"}


def test_a_guard_is_called_by_its_directory_or_by_name(
    plain_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source keeps the checkpoint's name."""
    plain = export_guard(plain_checkpoint, tmp_path / "plain", quant="fp32")
    assert (plain.name, plain.source.name) == ("plain", plain_checkpoint.name)
    monkeypatch.chdir(tmp_path / "plain")
    for out in (".", "./", "../plain/", "../x/../plain"):
        assert guard_name(None, Path(out)) == "plain"
    command = [sys.executable, "-m", "guardpass", "export", plain_checkpoint, "--out", tmp_path / "named"]
    subprocess.run([*command, "--quant", "fp32", "--name", "팀 guard"], check=True)
    named = open_guard(tmp_path / "named")
    assert named == replace(plain, name="팀 guard")


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\udcff", "\x1b[31m", "a:safe-unsafe", "org/name"])
def test_a_name_that_cannot_be_shown_or_served_is_refused(name: str, plain_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name is .*, expected printable text on one line .*; choose another name"):
        export_guard(plain_checkpoint, tmp_path / "guard", name=name)
    if name.strip("/ ") and "/" not in name:
        with pytest.raises(InputError, match=r"name is .*; give the guard another name with --name"):
            export_guard(plain_checkpoint, tmp_path / name)
        assert guard_name("other", tmp_path / name) == "other"
    with pytest.raises(InputError, match="name is ''"):
        guard_name(None, Path("/"))
    assert files(tmp_path) == []


def test_folders_above_a_guard_are_made_with_it_or_not_at_all(plain_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not one token here"):
        export_guard(plain_checkpoint, tmp_path / "a" / "b" / "guard", family="kanana-safeguard-siren")
    assert files(tmp_path) == []
    export_guard(plain_checkpoint, tmp_path / "a" / "b" / "guard", quant="fp32")
    assert open_guard(tmp_path / "a" / "b" / "guard").name == "guard"
    assert files(tmp_path / "a") == ["b"]
    assert files(tmp_path / "a" / "b") == ["guard"]


def test_paths_may_be_strings(plain_checkpoint: Path, tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"text": "a"}\n')
    gated = export_guard(str(plain_checkpoint), str(tmp_path / "guard"), gate_texts=str(lines), max_flip_rate=1).gate
    assert gated
    assert (open_guard(tmp_path / "guard").gate, gated.source) == (gated, "texts.jsonl")


def test_progress_reaches_its_end(plain_checkpoint: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    export_guard(
        plain_checkpoint, tmp_path / "guard", gate=False, progress=lambda done, total: told.append((done, total))
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_the_embedding_takes_two_bytes_a_weight(exported: Callable[..., Path]) -> None:
    """And in an int8 guard the other matrices one, whatever the source stored."""
    config = VARIANTS["float32"].config
    guard = exported("float32", "int8")
    embedding = config["vocab_size"] * config["hidden_size"] * 2
    size = (guard / "model.onnx.data").stat().st_size
    assert embedding < size < embedding * 2.5


def test_a_precision_that_overflows_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_twin(tiny(find("shieldgemma-2b")), tmp_path / "twin")
    with pytest.raises(InputError, match=r"fp16 is refused.*Gemma 2's activations grow beyond 65504"):
        export_guard(tmp_path / "twin", tmp_path / "guard", family="shieldgemma", quant="fp16")
    assert files(tmp_path) == ["twin"]


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("variant", list(VARIANTS)[:3])
def test_quantized_scores_stay_near_the_reference(
    variant: str, quant: str, exported: Callable[..., Path], record_property: Callable[[str, object], None]
) -> None:
    """Random weights have no margins to speak of, so agreement is reported, and the error of the logits held."""
    reference, quantized = Guard.load(exported(variant)), Guard.load(exported(variant, quant))
    expected = np.array([scores(reference, text) for text in texts(100, seed=4)])
    found = np.array([scores(quantized, text) for text in texts(100, seed=4)])
    agreement = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    record_property("agreement", agreement)
    print(f"{variant}, {quant}: agreement {agreement:.0%}, worst logit change {np.abs(found - expected).max():.3f}")
    relative = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert relative < {"int8": 0.1, "int4": 0.5}[quant]
