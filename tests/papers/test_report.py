"""The report, opened and clicked through in a real headless Chromium."""
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from xlingtox import babel
from xlingtox.papers.exhibits import EXHIBITS
from xlingtox.papers.report import build_report, scoreboard
from xlingtox.progress import append_progress

from synthetic_run import execute_all, make_run

WORDS = {"holds", "does not hold", "cannot tell", "failed", "not run"}
BUILT = ["li2024/fig1", "li2024/fig4", "li2024/table1", "li2024/table2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run with four exhibits; the latest attempt at figure 4 failed, and so did a stage"
    run = make_run(tmp_path_factory.mktemp("runs") / "mini", 0.9, n_prompts=30)
    execute_all(run, BUILT)
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="loss is NaN at step 7 <b>", traceback=["\x1b[31mValueError\x1b[39m: NaN"])
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()", outputs=[error])])
    (run / "notebooks/tune/mgpt").mkdir(parents=True)
    nbformat.write(broken, run / "notebooks/tune/mgpt/dpo-3.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=[]), run / "notebooks/data.ipynb")
    for job in BUILT:  # whatever they took on this machine; see the last test
        append_progress(run, event="finished", job=job, seconds=0.0)
    for job in ("tune mgpt/dpo-3", "li2024/fig4"):
        append_progress(run, event="failed", job=job, error="ValueError: loss is NaN at step 7 <b>", cell=1, lines=["train()", "line 7"])
    for job, seconds in (("tune mgpt/dpo-0", 600.0), ("tune mgpt/dpo-0", 60.0), ("li2024/fig1", 12.0)):
        append_progress(run, event="finished", job=job, seconds=seconds)
    return run


@pytest.fixture(scope="module")
def page(run):
    return build_report(run)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    chromium, driver = (shutil.which(n) for n in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("no chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def resize(browser, width, height, dark=False):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
    features = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": n, "value": v} for n, v in features.items()]})


def pages(page):
    "index.html and the pages of the notebooks"
    return [page, *sorted((page.parent / "notebooks").rglob("*.html"))]


def visit(browser, path):
    browser.get(path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


def test_no_console_errors_and_all_pictures_load(browser, page):
    resize(browser, 1366, 900)
    for path in pages(page):
        visit(browser, path)
        assert browser.execute_script("return [...document.images].filter(i => !i.naturalWidth).length") == 0
        assert not browser.get_log("browser")


def test_links_lead_somewhere(browser, page):
    n = 0
    for path in pages(page):
        visit(browser, path)
        links = browser.execute_script("return [...document.querySelectorAll('[href], [src]')].map(e => e.href || e.src)")
        for link in links:
            url = urlparse(link)
            assert url.scheme in ("file", "data"), f"{link} is not part of the report"
            if url.scheme == "file":
                target = Path(unquote(url.path))
                assert target.is_file() and target.is_relative_to(page.parent), link
                if url.fragment and target == path:
                    assert browser.execute_script("return document.getElementById(arguments[0])", unquote(url.fragment)), link
                n += 1
    assert n > 40


@pytest.mark.parametrize("width, height", [(390, 844), (1366, 900)])
def test_nothing_sticks_out_sideways(browser, page, width, height):
    resize(browser, width, height)
    for path in pages(page):
        visit(browser, path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path.name
        wide = browser.execute_script("return [...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.closest('.scroll, .output_area')"
                                      "?.clientWidth + 2 && getComputedStyle(t.closest('.scroll, .output_area')).overflowX != 'auto').length")
        assert wide == 0, f"a table of {path.name} is cut off"


def test_the_scoreboard_has_every_verdict(browser, page, run):
    resize(browser, 1366, 900)
    visit(browser, page)
    rows = browser.execute_script("return [...document.querySelectorAll('table.score tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))")
    board = scoreboard(run)
    judged = board[board["exhibit"].isin(BUILT)]
    assert [r[0].split("\n")[0] for r in rows] == judged["claim"].tolist() and len(rows) == 6
    assert [r[2] for r in rows] == judged["verdict"].tolist()
    badges = browser.execute_script("return [...document.querySelectorAll('.badge')].map(b => b.textContent)")
    assert set(badges) <= WORDS and "not run" in badges
    missing = browser.execute_script("return document.querySelectorAll('details.missing tbody tr').length")
    assert missing == len(EXHIBITS) - len(BUILT)
    assert "Content warning" in browser.find_element("tag name", "header").text


def test_clicking_through(browser, page):
    resize(browser, 1366, 900)
    browser.get(page.as_uri())
    inside = "const r = document.getElementById(arguments[0]).getBoundingClientRect(); return r.top > -2 && r.top < innerHeight"
    for link in [a.get_attribute("href") for a in browser.find_elements("css selector", "nav a")]:
        browser.get(page.as_uri())
        browser.find_element("css selector", f"nav a[href='#{urlparse(link).fragment}']").click()
        assert browser.current_url == link
        assert browser.execute_script(inside, urlparse(link).fragment)
    browser.get(page.as_uri())
    details = browser.find_element("css selector", "#li2024-fig1 details")
    assert "The claim holds when" not in details.text
    details.find_element("tag name", "summary").click()
    assert "The claim holds when" in details.text
    browser.find_element("css selector", "#li2024-fig1 .links a[href$='.html']").click()
    assert "Figure 1 of Li et al." in browser.find_element("tag name", "h1").text
    browser.find_element("link text", "Back to the report").click()
    assert browser.current_url == page.as_uri()
    browser.find_element("css selector", "#li2024-fig4 figure a").click()
    assert browser.current_url.endswith("exhibits/li2024/fig4/fig4.svg")


def test_failures_are_named(browser, page):
    browser.get(page.as_uri())
    shown = browser.find_element("css selector", "section[aria-labelledby=failures]").text
    assert "tune mgpt/dpo-3 in cell 1" in shown and "loss is NaN at step 7 <b>" in shown and "li2024/fig4" in shown
    assert "an earlier result" in browser.find_element("id", "li2024-fig4").text
    browser.find_element("css selector", ".error a[href*='dpo-3']").click()
    assert "NaN" in browser.find_element("css selector", ".output_error").text


def test_toxic_words_are_masked(browser, page):
    toxic = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in babel.toxic_words(["en", "es"])) + "|"
                       + "|".join(babel.toxic_words(["zh"])), re.IGNORECASE)
    for path in pages(page):
        visit(browser, path)
        assert not toxic.search(browser.find_element("tag name", "body").text), path.name
    assert "·" in page.read_text()


CONTRAST = """
const rgb = c => {
  const x = document.createElement('canvas').getContext('2d');
  x.fillStyle = c; x.fillRect(0, 0, 1, 1);
  return [...x.getImageData(0, 0, 1, 1).data];
};
const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const luminance = c => { const [r, g, b] = rgb(c).map(linear); return .2126 * r + .7152 * g + .0722 * b };
const ground = e => {
  for (; e; e = e.parentElement) if (rgb(getComputedStyle(e).backgroundColor)[3] == 255) return getComputedStyle(e).backgroundColor;
  return 'white';
};
const texts = 'p, td, th, dt, dd, a, h1, h2, h3, .badge, .tag, .paper, .ci, pre, li, summary';
return [...document.querySelectorAll(texts)].filter(e => e.innerText?.trim() && e.offsetParent).map(e => {
  const [light, dark] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((x, y) => y - x);
  return [(light + .05) / (dark + .05), e.innerText.slice(0, 40)];
}).filter(([contrast]) => contrast < 4.5).slice(0, 5)
"""


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_and_colour_scheme(browser, page, dark):
    resize(browser, 1366, 900, dark)
    visit(browser, page)
    brightness = browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (brightness < 60) == dark
    assert browser.execute_script(CONTRAST) == []


def test_a_reader_who_cannot_see(browser, page):
    visit(browser, page)
    assert all(len(i.get_attribute("alt")) > 60 for i in browser.find_elements("css selector", "figure img"))
    levels = browser.execute_script("return [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert browser.execute_script("return document.documentElement.lang") == "en"
    assert browser.execute_script("return document.querySelectorAll('th:not([scope])').length") == 0


def test_an_empty_run_has_a_report(tmp_path):
    (tmp_path / "mini").mkdir()
    html = build_report(tmp_path / "mini", tmp_path / "elsewhere").read_text()
    assert "No exhibit has been run" in html and (tmp_path / "elsewhere/manifest.json").exists()


def test_a_new_report_replaces_the_old_one(run, page):
    (page.parent / "left over.txt").write_text("old")
    build_report(run)
    assert page.exists() and not (page.parent / "left over.txt").exists()


def test_the_work_is_what_the_jobs_took(page):
    "Each job counts as long as it took when it was last run"
    assert "1.2 minutes of computing" in page.read_text(encoding="utf-8")
