"""The report of a small run, opened and clicked through in a real headless Chromium."""
import re
import shutil

import nbformat
import pytest
from xlingtox import babel
from xlingtox.papers.claims import CLAIMS, verdict
from xlingtox.papers.exhibits import EXHIBITS, not_run, save_exhibit
from xlingtox.papers.pieces import template
from xlingtox.papers.report import build_report, scoreboard
from xlingtox.progress import append_progress

from browser import CONTRAST, CUT_OFF, IN_VIEW, Page, read_pages, resize, start_chromium, visit
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
    browser = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


def pages(page):
    "The front page, the pages of the papers and those of the notebooks"
    return [page, *sorted(page.parent.glob("[!i]*.html")), *sorted((page.parent / "notebooks").rglob("*.html"))]


def test_no_console_errors_and_all_pictures_load(browser, page):
    resize(browser, 1366, 900)
    for path in pages(page):
        visit(browser, path)
        browser.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        loaded = browser.execute_async_script("""const done = arguments[0];
            Promise.all([...document.images].map(i => i.decode().then(() => true, () => i.src))).then(done)""")
        assert set(loaded) <= {True}
        assert not browser.get_log("browser")


def test_links_lead_somewhere(page):
    found, n = read_pages(page.parent), 0
    assert len(found) == len(pages(page)) == 10
    for one in found.values():
        assert all(s.startswith("data:") or (one.path.parent / s).is_file() for s in one.sources), one.path.name
        for target, fragment in one.targets():
            assert target.is_file() and target.is_relative_to(page.parent.resolve()), (one.path.name, target)
            assert not fragment or fragment in found[target].ids, (one.path.name, target.name, fragment)
            n += 1
    assert n > 300


@pytest.mark.parametrize("width, height", [(390, 844), (1366, 900)])
def test_nothing_sticks_out_sideways(browser, page, width, height):
    resize(browser, width, height)
    for path in pages(page):
        visit(browser, path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path.name
        assert browser.execute_script(CUT_OFF) == 0, f"a table of {path.name} is cut off"


CELLS = "return [...document.querySelectorAll(arguments[0])].map(r => [...r.cells].map(c => c.innerText.trim()))"


def test_the_scoreboard_has_every_verdict(browser, page, run):
    "Those that are there are on the page of the paper, with what is published; the rest is counted and listed"
    resize(browser, 1366, 900)
    visit(browser, page.with_name("li2024.html"))
    rows = browser.execute_script(CELLS, ".claim table.score tbody tr")
    board = scoreboard(run)
    judged = board[board["exhibit"].isin(BUILT)].assign(order=lambda b: b["claim"].map(list(CLAIMS).index)).sort_values("order", kind="stable")
    assert [r[1] for r in rows] == judged["verdict"].tolist() and len(rows) == 6
    assert all(r[2].startswith(said or "") for r, said in zip(rows, judged["published"], strict=True))
    badges = browser.execute_script("return [...document.querySelectorAll('.badge')].map(b => b.textContent)")
    assert set(badges) <= WORDS and "not run" in badges
    visit(browser, page)
    front = browser.execute_script(CELLS, "table.score tbody tr")
    assert [r[0].split()[0] for r in front] == list(dict.fromkeys(judged["claim"])) == ["L1", "L2", "L4", "L5", "L13", "L14"][:len(front)]
    assert browser.execute_script("return document.querySelectorAll('details.missing li').length") == len(EXHIBITS) - len(BUILT)
    assert "Content warning" in browser.find_element("tag name", "header").text


def tallies(browser, path, css):
    "What stands in the counts below a selector, by word"
    visit(browser, path)
    marks = browser.execute_script("return [...document.querySelectorAll(arguments[0] + ' .mark')].map(m => m.textContent)", css)
    return {word: int(n) for n, word in (m.split(" ", 1) for m in marks)}


def test_what_cannot_be_told_and_what_was_not_run_are_two_things(browser, tmp_path):
    run = tmp_path / "runs/mini"
    run.mkdir(parents=True)
    said = [("fig1", True, "it falls"), ("fig5", None, "two languages have scores"), ("fig6", None, "not run: no scores")]
    for name, holds, reproduced in said:
        save_exhibit(run, f"li2024/{name}", "A caption.", {}, "lexicon", "exact", verdicts=[verdict("L1", f"li2024/{name}", holds, reproduced, "by 69%")])
    save_exhibit(run, "li2024/fig4", "A caption.", {}, "lexicon", "exact", verdicts=[verdict("L13", "li2024/fig4", None, "three languages")])
    not_run(run, "li2024/fig3", "no activations")
    append_progress(run, event="failed", job="li2024/fig7", error="boom", cell=1, lines=[])
    page = build_report(run)
    board = scoreboard(run)
    l1 = board[board["claim"] == "L1"]["verdict"].value_counts().to_dict()
    assert {word: l1[word] for word in ("holds", "cannot tell", "failed")} == {"holds": 1, "cannot tell": 1, "failed": 1}
    assert tallies(browser, page.with_name("li2024.html"), "#claim-L1 summary") == l1
    assert tallies(browser, page.with_name("li2024.html"), "#claim-L14 summary") == board[board["claim"] == "L14"]["verdict"].value_counts().to_dict()
    assert board.set_index(["exhibit", "claim"]).loc[("li2024/fig4", "L14"), "verdict"] == "cannot tell", "it ran, and says nothing of L14"
    visit(browser, page)
    counts = browser.execute_script("return [...document.querySelectorAll('.counts li')].map(l => l.innerText.split('\\n'))")
    assert {word: int(n) for n, word in counts} == board["verdict"].value_counts().to_dict() | {"does not hold": 0}
    rows = browser.execute_script(CELLS, "table.score tbody tr")
    assert [(r[0].split()[0], r[-1].split("\n")[0]) for r in rows][:2] == [("L1", "it falls Figure 1"), ("L13", "three languages Figure 4")]
    listed = browser.find_element("css selector", "section[aria-labelledby=li2024] .missing").text
    assert "Figure 3" in listed and "no activations" in listed and "its last attempt failed" in listed and "Figure 4" not in listed


def test_clicking_through(browser, page):
    resize(browser, 1366, 900)
    for path in (page, page.with_name("li2024.html")):
        browser.get(path.as_uri())
        for link in [a.get_attribute("href") for a in browser.find_elements("css selector", "nav.toc a")]:
            browser.get(path.as_uri())
            fragment = link.partition("#")[2]
            browser.find_element("css selector", f"nav.toc a[href='#{fragment}']").click()
            assert browser.current_url == link
            assert browser.execute_script(IN_VIEW, fragment)
    browser.get(page.as_uri())
    browser.find_element("css selector", "nav.pages a[href='li2024.html']").click()
    details = browser.find_element("css selector", "#li2024-fig1 details")
    assert "The claim holds when" not in details.text
    details.find_element("tag name", "summary").click()
    assert "The claim holds when" in details.text
    browser.find_element("css selector", "#li2024-fig1 .links a[href$='.html']").click()
    assert "Figure 1 of Li et al." in browser.find_element("tag name", "h1").text
    browser.find_element("link text", "Back to the report").click()
    assert browser.current_url == page.with_name("li2024.html").as_uri() + "#li2024-fig1"
    browser.find_element("css selector", "#li2024-fig4 figure a").click()
    assert browser.current_url.endswith("exhibits/li2024/fig4/fig4.svg")
    browser.get(page.as_uri())
    browser.find_element("css selector", "#li2024-fig4 a").click()
    assert browser.current_url == page.with_name("li2024.html").as_uri() + "#li2024-fig4" and browser.execute_script(IN_VIEW, "li2024-fig4")


def test_failures_are_named(browser, page):
    browser.get(page.as_uri())
    shown = browser.find_element("css selector", "section[aria-labelledby=failures]").text
    assert "tune mgpt/dpo-3 in cell 1" in shown and "loss is NaN at step 7 <b>" in shown and "li2024/fig4" in shown
    assert "earlier result" in browser.find_element("id", "li2024-fig4").text
    browser.find_element("css selector", ".error a[href*='dpo-3']").click()
    assert "NaN" in browser.find_element("css selector", ".output_error").text
    browser.find_element("link text", "Back to the report").click()
    assert browser.current_url == page.as_uri() + "#failures"
    browser.get(page.with_name("li2024.html").as_uri())
    assert "an earlier result" in browser.find_element("id", "li2024-fig4").text


def test_toxic_words_are_masked(browser, page):
    toxic = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in babel.toxic_words(["en", "es"])) + "|"
                       + "|".join(babel.toxic_words(["zh"])), re.IGNORECASE)
    for path in pages(page):
        visit(browser, path)
        assert not toxic.search(browser.find_element("tag name", "body").text), path.name
    assert "·" in page.with_name("li2024.html").read_text()


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_and_colour_scheme(browser, page, dark):
    resize(browser, 1366, 900, dark)
    for path in (page, page.with_name("li2024.html"), page.with_name("beniwal2025.html")):
        visit(browser, path)
        brightness = browser.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (brightness < 60) == dark
        assert browser.execute_script(CONTRAST) == []


def test_a_reader_who_cannot_see(browser, page):
    for path in pages(page):
        one = Page(path)
        if "notebooks" not in path.parts:
            assert one.headings[0] == 1 and one.headings.count(1) == 1, path.name
            assert all(b - a <= 1 for a, b in zip(one.headings, one.headings[1:], strict=False)), path.name
            assert all("scope" in head for head in one.heads), path.name
        assert all("alt" in image for image in one.images)
    visit(browser, page.with_name("li2024.html"))
    assert all(len(i.get_attribute("alt")) > 60 for i in browser.find_elements("css selector", "figure img"))
    assert browser.execute_script("return document.documentElement.lang") == "en"


def test_trainings_of_one_model_are_named_once():
    of = {"published": "mGPT 1.3B", "ran": "miniature of mGPT 1.3B"}
    ran = template("macros.html").module.ran
    assert ran([of | {"role": "mgpt"}, of | {"role": "mgpt-1"}]) == "miniature of mGPT 1.3B (published: mGPT 1.3B)"
    assert ran([of, {"published": "Aya", "ran": "Aya"}]) == "miniature of mGPT 1.3B (published: mGPT 1.3B), Aya"


def test_an_empty_run_has_a_report(tmp_path):
    (tmp_path / "mini").mkdir()
    html = build_report(tmp_path / "mini", tmp_path / "elsewhere").read_text()
    assert "No exhibit has been run" in html and (tmp_path / "elsewhere/manifest.json").exists()
    assert all((tmp_path / f"elsewhere/{paper}.html").exists() for paper in ("li2024", "beniwal2025", "neuronft2025", "ours"))


def test_a_figure_that_cannot_be_read_costs_its_small_picture_alone(tmp_path, run):
    shutil.copytree(run, tmp_path / "mini", ignore=shutil.ignore_patterns("report"))
    picture = tmp_path / "mini/exhibits/li2024/fig1/fig1.png"
    picture.write_bytes(picture.read_bytes()[:5000])
    page = build_report(tmp_path / "mini")
    assert [p.name for p in (page.parent / "thumbnails").iterdir()] == ["li2024-fig4.webp"]


def test_a_new_report_replaces_the_old_one(run, page):
    (page.parent / "left over.txt").write_text("old")
    build_report(run)
    assert page.exists() and not (page.parent / "left over.txt").exists()


def test_the_work_is_what_the_jobs_took(page):
    "Each job counts as long as it took when it was last run"
    assert "1.2 minutes of computing" in page.read_text(encoding="utf-8")
