"""The report in a real browser: no error, no request, nothing that sticks out, every link, keyboard and print.

Needs Chromium (`apt-get install chromium`); skipped where there is none.
"""

from __future__ import annotations

from pathlib import Path
import re
from urllib.parse import unquote, urlparse

import cv2
import numpy as np
import pytest

from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.report import write_report
from tests.evaluation import browser as chromium
from tests.evaluation.simulated import Cases, record, study

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="no Chromium here: apt-get install chromium")
LONG = "supervised_then_moco_v2_on_radnet_with_a_long_name"


def _curve():
    return [{"step": 10 * i, "loss": 3 / i} for i in range(1, 60)]


def _pixels(task, case_ids):
    del task
    return [cv2.imencode(".png", np.full((24, 24, 3), 90, np.uint8))[1].tobytes() for _ in case_ids]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of three starts and one of twenty, as files."""
    root = tmp_path_factory.mktemp("browser")
    out = {}
    many = {f"objective_{i:02d}": 0.7 + 0.05 * i for i in range(18)} | {LONG: 1.2, "scratch": 0.6}
    for name, starts in {"few": {"ct": 1.6, "natural": 1.0, "scratch": 0.6}, "many": many}.items():
        runs = root / name / "runs"
        study(runs, Cases(n_patients=60), starts, seeds=2, curves=_curve())
        ledger.write_run(runs / "pre", record("pretrain ct", kind="pretrain", task="", protocol=""), curves=_curve())
        found = ledger.read_runs(root / name)
        out[name] = write_report(
            root / name / "report",
            title="Which pretraining is best?",
            comparisons=compare(found, n_resamples=200),
            runs=found,
            pixels=_pixels,
            warnings=["The images are generated: the verdict is about no patients."],
        )
    return out


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"
# Elements that stick out of the page and are in no box that scrolls by itself.
STICK_OUT = """(() => {
  const width = document.documentElement.clientWidth, out = [];
  for (const e of document.querySelectorAll('main *')) {
    const r = e.getBoundingClientRect();
    if (r.width === 0 || r.right <= width + 1 || e.closest('.scroll') || e.closest('.unseen, thead')) continue;
    if (e.closest('svg') && e.tagName !== 'svg') continue;
    out.push(e.tagName + '.' + e.className + ' ' + Math.round(r.right));
  }
  return out.slice(0, 5);
})()"""
# Texts of figures that leave their figure: names that were cut.
CUT = """[...document.querySelectorAll('svg.figure')].flatMap(s => {
  const box = s.getBoundingClientRect();
  return [...s.querySelectorAll('text')].filter(t => {
    const r = t.getBoundingClientRect();
    const aside = r.left < box.left - 14 || r.right > box.right + 14;
    return r.width && (aside || r.top < box.top - 4 || r.bottom > box.bottom + 4);
  }).map(t => s.getAttribute('aria-label').slice(0, 40) + ': ' + t.textContent);
}).slice(0, 8)"""
# Text against the colour behind it (WCAG 2.1, contrast ratio).
CONTRAST = """(() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; })
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length && (c.length < 4 || c[3] > 0)) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll('main *, nav *')) {
    if (e.closest('svg') || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = luminance(parse(getComputedStyle(e).color)), b = luminance(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(ratio.toFixed(2) + ' ' + e.textContent.trim().slice(0, 30));
  }
  return bad.slice(0, 5);
})()"""


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["few", "many"])
def test_nothing_sticks_out_and_nothing_goes_wrong(pages, page, name, width):
    page.problems.clear()
    page.requests.clear()
    page.size(width, mobile=width < 500)
    page.open(pages[name])
    page.run(OPEN)
    assert page.problems == []
    assert [r for r in page.requests if not r.startswith(("file:", "data:"))] == []
    assert page.run("document.documentElement.scrollWidth") <= page.run("document.documentElement.clientWidth")
    assert page.run(STICK_OUT) == []
    assert page.run(CUT) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(pages, page, dark):
    page.size(1280, dark=dark)
    page.open(pages["few"])
    page.run(OPEN)
    assert page.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert page.run(CONTRAST) == []


def test_every_link_leads_somewhere(pages, page):
    page.size(1280)
    page.open(pages["few"])
    links = page.run("[...document.querySelectorAll('a')].map(a => a.href)")
    own = pages["few"].resolve().as_uri()
    assert len(links) > 20
    for link in links:
        if link.startswith(own + "#"):
            assert page.run(f"!!document.getElementById({link.split('#')[1]!r})"), link
        else:
            assert Path(unquote(urlparse(link).path)).is_file(), link
    assert any("#cost" in link for link in links)


def test_figures_are_files_that_a_browser_draws(pages, page):
    folder = pages["few"].parent / "figures"
    files = sorted(folder.glob("*.svg"))
    page.size(1280)
    page.open(pages["few"])
    assert len(files) == page.run("document.querySelectorAll('svg.figure').length")
    page.problems.clear()
    for file in files:
        page.open(file)
        assert page.run("document.documentElement.tagName") == "svg"
        assert page.run("document.querySelectorAll('text').length") > 0
        assert "var(--" not in file.read_text()
    assert page.problems == []


def test_by_keyboard(pages, page):
    page.size(1280)
    page.open(pages["few"])
    page.key("Tab")
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().left") >= 0  # it shows when it has the focus
    page.key("Enter")
    assert page.run("location.hash") == "#verdict"
    seen, outlined = set(), []
    for _ in range(40):
        page.key("Tab")
        tag, outline = page.run(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if tag == "BODY":  # past the last one
            break
        seen.add(tag)
        outlined.append((tag, outline))
    assert len(outlined) > 15
    assert {"A", "DIV", "SUMMARY"} <= seen  # links, tables that scroll, details
    assert {o for o in outlined if o[1] != "solid"} == set()
    page.run("document.querySelector('summary').focus()")
    page.key("Enter")
    assert page.run("document.querySelector('details').open")


def test_in_print_nothing_is_cut_or_left_closed(pages, page):
    page.size(794)  # A4 at 96 dpi
    page.open(pages["few"])
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run(STICK_OUT.replace("e.closest('.scroll') || ", "")) == []
    assert page.run(
        "[...document.querySelectorAll('details > *')].every(e => e.checkVisibility({contentVisibilityAuto: true}))"
    )
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 25


def test_every_image_and_table_has_words(pages, page):
    page.size(360)
    page.open(pages["few"])
    assert page.run("[...document.images].filter(i => !i.alt || !i.naturalWidth).length") == 0
    assert page.run("document.images.length") > 0
    assert page.run("[...document.querySelectorAll('table')].filter(t => !t.caption).length") == 0
    assert page.run("document.querySelector('html').lang") == "en"
    # A start that is shown by a colour has its name beside it.
    assert (
        page.run("[...document.querySelectorAll('.dot')].filter(d => !d.parentElement.textContent.trim()).length") == 0
    )
