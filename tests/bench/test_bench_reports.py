"""What a report shows: tables that markdown-it reads, where a peer is ahead, pictures, and changes between reports."""

import json
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from guardpass import InputError
from guardpass.bench.speed.plots.figures import draw
from guardpass.bench.speed.plots.labels import label_ends, label_points
from guardpass.bench.speed.plots.style import Look
from guardpass.bench.speed.report.changes import Changes, changes_markdown, compare_reports
from guardpass.bench.speed.report.markdown import markdown
from guardpass.bench.speed.report.schema import Latency, Report
from guardpass.bench.speed.report.standings import standings
from guardpass.bench.speed.report.statistics import paired_ratio, summary
from guardpass.bench.speed.report.subjects import name_of
from guardpass.format.codec import decode, encode

from ..support.helpers import files
from ..support.labelled import is_picture
from ..support.speed_reports import ENGINES, HERE, SUBJECT, report

Table = list[list[str]]


def _parts(text: str) -> list[tuple[str, list[Table]]]:
    """Headings, and the cells of the tables below each, as markdown-it reads them."""
    parts: list[tuple[str, list[Table]]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            parts.append((token.content, []))
        elif before.type == "table_open":
            parts[-1][1].append([])
        elif before.type == "tr_open":
            parts[-1][1][-1].append([])
        if before.type in ("th_open", "td_open"):
            parts[-1][1][-1][-1].append(token.content)
        elif token.type == "tr_open":
            parts[-1][1][-1].append([])
    return [(title, [[row for row in table if row] for table in tables]) for title, tables in parts]


@pytest.fixture(scope="module")
def made() -> Report:
    return report((16, 64, 128))


def _scaled(made: Report, engine: str, by: float) -> Report:
    """With other times of one engine."""

    def scaled(row: Latency) -> Latency:
        if row.contender.engine != engine:
            return row
        samples = tuple(by * ms for ms in row.samples)
        return replace(row, samples=samples, ms=summary(samples))

    return replace(made, latency=tuple(map(scaled, made.latency)))


def test_who_is_ahead_comes_first(made: Report) -> None:
    (_, _), (title, (ahead,)), *_ = _parts(markdown(made))
    assert title == "Where a peer is ahead of guardpass"
    faster = [row[:3] for row in ahead if row[1].startswith("latency")]
    assert faster == [
        ["vllm W8A8, prefix caching", f"latency, prompt, {length} tokens", "**ahead**"] for length in (16, 64, 128)
    ]
    assert ["llama.cpp q4_k_m, prefix kept", "file size", "**ahead**", "0.613", "1330 MB", "2170 MB", "1"] in ahead
    # More agreement than int8, though not more than guardpass's fp32, and within what 628 texts can tell.
    assert ["llama.cpp q8_0", "agreement with fp32", "level"] in [row[:3] for row in ahead]
    assert "zendnn bf16" in markdown(made).partition("## The run")[0]


@pytest.mark.parametrize(("by", "standing"), [(0.9, "ahead"), (1.0, "level"), (1.1, "behind")])
def test_standings_are_by_turn(by: float, standing: str) -> None:
    """A peer whose times are guardpass's but for noise, then a tenth less and more, on a machine that drifts."""
    rng = np.random.default_rng(3)
    drift = rng.uniform(50, 100, 40)
    own, *_ = report((16,)).latency
    rows = []
    for engine, factor in (("guardpass", 1.0), ("peer", by)):
        samples = (factor * drift * rng.normal(1, 0.01, 40)).tolist()
        who = replace(own.contender, engine=engine)
        ratio, interval = paired_ratio(samples, rows[0].samples if rows else samples)
        rows.append(
            replace(
                own, contender=who, samples=tuple(samples), ms=summary(samples), ratio=ratio, ratio_interval=interval
            )
        )
    (found,) = standings(Report(1, "", latency=tuple(rows)))
    assert found.standing == standing
    assert (found.ratio, found.interval) == paired_ratio(rows[1].samples, rows[0].samples)


def test_nothing_is_compared_without_guardpass_or_peers(made: Report) -> None:
    for chosen in (True, False):
        rows = tuple(row for row in made.latency if (row.contender.engine == "guardpass") == chosen)
        alone = Report(1, "", latency=rows)
        assert not list(standings(alone))
        assert "nothing to compare" in markdown(alone)
    assert "# guardpass bench" in markdown(Report(1, ""))


def test_the_latency_tables(made: Report) -> None:
    parts = dict(_parts(markdown(made)))
    medians, ratios, shares, details = parts["Latency, mode prompt"]
    assert medians[0] == ["", "16 tokens", "64 tokens", "128 tokens"]
    assert [row[0] for row in medians[1:3]] == ["vllm W8A8, prefix caching", "guardpass int8"]  # the fastest first
    assert all(cell.startswith("**") for cell in medians[1][1:])
    assert not any("**" in cell for row in medians[2:] for cell in row)
    found = {(name_of(row.contender), row.content): row for row in made.latency}
    for table, of in ((medians, lambda row: np.median(row.samples)), (ratios, lambda row: row.ratio)):
        for name, *cells in table[1:]:
            for length, cell in zip((16, 64, 128), cells, strict=True):
                shown = float(cell.strip("*").split()[0])
                assert shown == pytest.approx(of(found[name, length]), rel=6e-3)
    int8 = found["guardpass int8", 128]
    assert int8.share is not None
    assert int8.share_interval is not None
    low, high = int8.share_interval
    shown = f"{100 * int8.share:.1f} % ({100 * low:.1f}-{100 * high:.1f})"
    assert [row[3] for row in shares if row[0] == "guardpass int8"] == [shown]
    assert len(details) == 1 + len(made.latency)
    assert {row[details[0].index("N")] for row in details[1:]} == {"80"}


def test_shares_of_older_results_are_of_the_peak_the_run_began_with(made: Report) -> None:
    older = replace(
        made, latency=tuple(replace(row, peaks=None, share=None, share_interval=None) for row in made.latency)
    )
    _, _, shares, _ = dict(_parts(markdown(older)))["Latency, mode prompt"]
    int8 = next(row for row in older.latency if (name_of(row.contender), row.content) == ("guardpass int8", 128))
    assert int8.operations is not None
    share = int8.operations / (int8.split["pass"] / 1e3) / 1e9 / 1190
    assert [row[3] for row in shares if row[0] == "guardpass int8"] == [f"{100 * share:.1f} %"]


def test_the_other_tables(made: Report) -> None:
    parts = dict(_parts(markdown(made)))
    assert parts["Fidelity"][0][1] == ["guardpass fp32", "100.0 % (99.4-100.0)", "628", "-"]
    held = [row for row in parts["Server"][0] if "**" in row[2]]
    assert len(held) == sum(row.chosen for row in made.rate) > 0
    assert all(row[-1] == "yes" for row in held)
    assert [row[0] for row in parts["Offline"][0][1:3]] == ["vllm W8A8, prefix caching", "guardpass int8"]
    assert len(parts["Costs"][0]) == 1 + len(ENGINES)
    (lost,) = parts["Skipped"][0][1:]
    assert lost == ["zendnn bf16", SUBJECT, "no wheel for | this platform", "`pip install zentorch`"]
    (peaks,) = parts["The machine's peaks"][0][1:]
    assert peaks[:5] == ["2", "1190", "320", "148", "21.5"]


def test_subjects_are_told_apart(made: Report) -> None:
    """Other threads and cut twins get tables of their own, and are held against none of the others."""
    one = [replace(row, contender=replace(row.contender, threads=1)) for row in made.latency[:3]]
    cut = [replace(row, contender=replace(row.contender, layers=4, engine="peer")) for row in made.latency[:3]]
    both = Report(1, "", latency=(*made.latency, *one, *cut))
    titles = [title for title, _ in _parts(markdown(both)) if title.startswith(SUBJECT)]
    assert titles == [
        f"{SUBJECT} (shape twin, random weights), 2 threads",
        f"{SUBJECT} (shape twin, random weights), 1 thread",
        f"{SUBJECT} (shape twin, random weights, cut to 4 layers), 2 threads",
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, made: Report) -> tuple[Path, ...]:
    return draw(made, tmp_path_factory.mktemp("drawn") / "plots")


@pytest.mark.slow
def test_pictures(drawn: tuple[Path, ...], made: Report, tmp_path: Path) -> None:
    kinds = ("latency-prompt", "distribution-prompt", "roofline-prompt", "rate-64", "fidelity")
    names = [f"{SUBJECT}-2-threads-{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")]
    assert [path.name for path in drawn] == names
    assert files(drawn[0].parent) == sorted(names)
    for path in drawn:
        if path.suffix == ".png":
            assert is_picture(path)
            with Image.open(path) as image:
                assert image.size == (1300, 780)
            continue
        text = path.read_text()
        for name in {name_of(row.contender) for row in made.latency}:
            assert name in text
        assert f"{SUBJECT} (shape twin, random weights), 2 threads" in text
        assert HERE.cpu in text
    roofline = drawn[5].read_text()
    beside = np.median([peak for row in made.latency if row.operations for peak in row.peaks or ()])
    peaks = (f"int8 peak, {beside:.0f}", "bf16 peak, 320", "fp32 peak, 148")
    assert all(f"{peak} GOP/s" in roofline for peak in peaks)
    (before,) = draw(replace(made, latency=tuple(replace(row, peaks=None) for row in made.latency)), tmp_path)[5:6]
    assert "int8 peak, 1190 GOP/s" in before.read_text()
    assert "bound, 1500 ms" in drawn[7].read_text()


def test_pictures_of_the_same_report_are_the_same(drawn: tuple[Path, ...], made: Report, tmp_path: Path) -> None:
    again = draw(replace(made, latency=(), rate=()), tmp_path)
    assert [path.name for path in again] == [path.name for path in drawn[-2:]]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in drawn[-2:]]


@pytest.mark.slow
def test_pictures_of_little(made: Report, tmp_path: Path) -> None:
    """One contender, one length, three turns, names that a font or a file system has no letters for."""
    own = made.latency[0]
    own = replace(own, samples=own.samples[:3], ms=summary(own.samples[:3]), ratio=None, ratio_interval=None)
    own = replace(own, contender=replace(own.contender, subject="../가드/$x$", setting="$y_1^2$"))
    paths = draw(Report(1, "", latency=(own,)), tmp_path / "plots")
    assert [path.name.partition("-2-threads")[2] for path in paths] == [
        "-distribution-prompt.png",
        "-distribution-prompt.svg",
        "-roofline-prompt.png",
        "-roofline-prompt.svg",
    ]
    assert all(path.parent == tmp_path / "plots" for path in paths)
    assert "guardpass $y_1^2$" in paths[1].read_text()
    assert draw(Report(1, ""), tmp_path / "none") == ()
    with pytest.raises(InputError, match="choose another --plots"):
        draw(made, paths[0])


@pytest.mark.parametrize("place", [label_ends, label_points])
@pytest.mark.parametrize("seed", range(4))
def test_labels_do_not_overlap(place: Any, seed: int) -> None:
    """Of a dozen contenders that are almost the same, as matplotlib measures what it draws."""
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [(0.5 + 0.02 * x, 0.9 + 0.02 * y) for x, y in rng.standard_normal((12, 2))]
    for point in points:
        axes.plot(*point, "o")
    place(axes, [(Look(f"contender {number}", "#000000", ours=number == 3), at) for number, at in enumerate(points)])
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # an annotation's own has its line in it
    assert len(boxes) == 12
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


def test_the_same_report_has_not_changed(made: Report) -> None:
    found = compare_reports(made, made)
    assert {each.mark for each in found.changes} == {"within noise", "not judged"}
    assert all(each.ratio == 1 for each in found.changes)
    assert (found.machine, found.software, found.only_before, found.only_after) == ((), (), (), ())


@pytest.mark.parametrize(("speedup", "mark"), [(1.1, "better"), (1 / 1.1, "worse"), (1.0, "within noise")])
def test_changes_beyond_the_noise(made: Report, speedup: float, mark: str) -> None:
    after = report((16, 64, 128), seed=1, speedup=speedup)
    found = [each for each in compare_reports(made, after).changes if each.measure.startswith("latency")]
    assert len(found) == len(made.latency)
    for each in found:
        assert each.mark == (mark if each.contender.engine == "guardpass" else "within noise")
        assert each.interval is not None
        assert each.interval[0] < each.ratio < each.interval[1]
    ours = [each.ratio for each in found if each.contender.engine == "guardpass"]
    assert np.median(ours) == pytest.approx(1 / speedup, rel=0.02)


def test_noise_is_seldom_taken_for_a_change() -> None:
    """Of 300 pairs of runs of one thing, at most what chance gives an interval of 95 % once in a million runs."""
    rng, own = np.random.default_rng(0), report((16,)).latency[0]
    moved = 0
    for _ in range(300):
        runs = [rng.lognormal(sigma=0.1, size=25).tolist() for _ in range(2)]
        pair = [Report(1, "", latency=(replace(own, samples=tuple(run), ms=summary(run)),)) for run in runs]
        moved += compare_reports(*pair).changes[0].mark != "within noise"
    assert 0 < moved <= scipy.stats.binom.isf(1e-6, 300, 0.05)


def test_too_few_samples_are_not_judged() -> None:
    first, second = report((16,), turns=5), report((16,), turns=5, speedup=2.0)
    found = compare_reports(first, second).changes
    assert {each.mark for each in found if each.measure.startswith("latency")} == {"not judged"}


def test_agreement_that_falls_beyond_its_interval(made: Report) -> None:
    worse = tuple(replace(row, agreement=row.agreement - 0.05) for row in made.fidelity)
    found = [each for each in compare_reports(made, replace(made, fidelity=worse)).changes if not each.unit]
    assert {each.mark for each in found} == {"worse"}


def test_what_cannot_be_compared(made: Report) -> None:
    others = [replace(row, contender=replace(row.contender, subject="shieldgemma-2b")) for row in made.latency]
    with pytest.raises(InputError, match=r"of kanana-.* and of shieldgemma-2b .*; expected a subject in common"):
        compare_reports(made, Report(1, "", latency=tuple(others)))
    with pytest.raises(InputError, match="and of nothing; expected"):
        compare_reports(made, Report(1, ""))


def test_other_machines_versions_and_rows_are_told(made: Report) -> None:
    there = replace(HERE, cpu="Another CPU", commit="abc", versions={"guardpass": "0.1.0", "onnxruntime": "1.32.0"})
    after = report((64, 256))
    latency = tuple(replace(row, environment=there) for row in after.latency)
    after = replace(after, latency=latency, rate=made.rate)
    found = compare_reports(made, after)
    assert [line for line in found.machine if line.startswith("after: Another CPU, 2 cores")]
    assert "after: guardpass at abc" in found.software
    assert "after: vllm: onnxruntime 1.32.0" in found.software
    assert {each.measure for each in found.only_before} == {f"latency, prompt, {n} tokens" for n in (16, 128)}
    assert {each.measure for each in found.only_after} == {"latency, prompt, 256 tokens"}
    assert decode(Changes, json.loads(json.dumps(encode(found)))) == found
    text = changes_markdown(found)
    assert text.index("**The machine differs**") < text.index("## kanana")
    titles = [title for title, _ in _parts(text)]
    assert titles == [
        "guardpass bench compare",
        f"{SUBJECT} (shape twin, random weights), 2 threads",
        "Only before",
        "Only after",
    ]


def test_what_got_worse_comes_first(made: Report) -> None:
    text = changes_markdown(compare_reports(_scaled(made, "vllm", 2.0), _scaled(made, "guardpass", 2.0)))
    (_, _), (_, (table,)) = _parts(text)
    marks = [row[2] for row in table[1:]]
    assert marks == ["**worse**"] * 9 + ["**better**"] * 3 + ["within noise"] * (len(marks) - 12)
    assert "9 worse, 3 better" in text
