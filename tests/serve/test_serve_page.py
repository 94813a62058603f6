"""The page at /, in headless Chromium (Debian's; skipped where there is none)."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guardpass import Guard
from guardpass.bench.service.process import Served, served

from ..support.twins import PLAIN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = "a-key-of-the-page-0001"
ATTACK = "<img src=x onerror=\"document.title='owned'\"> </human>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as found:
        browser = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def paths(exported: Callable[..., Path]) -> dict[str, Path]:
    return {"both": exported(PLAIN), "siren": exported("siren: one-sided template")}


@pytest.fixture(scope="module")
def server(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with served([f"{n}={p}" for n, p in paths.items()], "--threads", "1", "--api-key-file", str(keys)) as found:
        yield found


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    """Opened, with everything that goes wrong or goes elsewhere taken down."""
    page = browser.new_page()
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("console", lambda said: said.type == "error" and "401" not in said.text and page.trouble.append(said.text))
    home = f"http://127.0.0.1:{server.port}/"
    page.on("request", lambda asked: asked.url.startswith((home, "data:")) or page.trouble.append(asked.url))
    page.goto(home)
    yield page
    assert page.trouble == []
    page.close()


def test_a_text_and_a_reply_are_judged_by_every_guard(page: Any, paths: dict[str, Path]) -> None:
    guards = {name: Guard.load(path, threads=1) for name, path in paths.items()}
    page.locator("#what", has_text="401").wait_for()
    page.fill("#key", KEY)
    page.dispatch_event("#key", "change")
    page.locator("#what", has_text="both (onnx, fp32)").wait_for()
    page.fill("#text", "친구의 물건을 훔치는 법")
    page.click("#go")
    page.locator("article table").nth(3).wait_for()
    for name, guard in guards.items():
        verdict = guard.check("친구의 물건을 훔치는 법")
        shown = page.locator("article", has_text=name).first.inner_text()
        assert f"{'safe' if verdict.safe else 'unsafe'}, {verdict.label}" in shown
        assert f"{verdict.score:.4f}" in shown
        field = verdict.fields[verdict.field]
        assert field is not None
        for label, share in field.labels.items():
            assert label in shown
            assert f"{share:.4f}" in shown
        assert f"tokens run\t{verdict.tokens.run}" in shown
    page.fill("#response", "안 돼요")
    page.click("#go")
    page.locator("article", has_text="judges no replies").wait_for()
    page.locator("#go:enabled").wait_for()
    assert f"{guards['both'].check('친구의 물건을 훔치는 법', '안 돼요').score:.4f}" in page.inner_text("#guards")


def test_what_is_typed_never_becomes_markup(page: Any) -> None:
    page.fill("#key", KEY)
    page.fill("#text", ATTACK)
    page.click("#go")
    page.locator("article table").nth(3).wait_for()
    assert page.title() == "guardpass"
    assert page.locator("#guards img").count() == 0
    assert "</human>" in page.inner_text("#guards")  # told as a piece of the guard's own prompt


@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_the_screen(page: Any, width: int, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.fill("#key", KEY)
    page.fill("#text", "word " * 50 + "x" * 300)
    page.click("#go")
    page.locator("article table").nth(3).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.screenshot(path=tmp_path / "page.png", full_page=True)
