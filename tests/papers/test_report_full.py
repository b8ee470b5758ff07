"""The report of a run that made every exhibit of the registry: found in two clicks, from old links too, and quick to open."""
import re
import subprocess
import sys

import pytest
from xlingtox.papers.exhibits import EXHIBITS, PAPERS
from xlingtox.papers.groups import anchor, groups, href, index_of, place
from xlingtox.papers.report import build_report, scoreboard

from browser import CUT_OFF, IN_VIEW, read_pages, resize, start_chromium, visit
from full_run import make_full_run

PRINTED = """
1 10 14 21 | 3 11 15 22 | 4 12 16 23
5 3 17 24 | 6 13 18 25 | 7 14 19 26
8 15 20 27 | 9 16 21 28 | 10 17 22 29
11 18 23 30 | 12 19 24 31 | 13 20 25 32
"""  # table 2 of Beniwal et al. (2025): a line for each model, tables and figures in turn


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_full_run(tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def page(run):
    "The report, made by a process of its own, which says what it imported and how long it worked"
    code = """import sys, time
from xlingtox.papers.report import build_report
build_report(sys.argv[1])
print(time.process_time(), *(m for m in ("torch", "transformers", "nbconvert") if m in sys.modules))"""
    said = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True).stdout.split()
    assert said[1:] == [], "the report needs no model"
    assert float(said[0]) < 15, "seconds of work; about 4 on a processor of 2020"
    return run / "report/index.html"


@pytest.fixture(scope="module")
def found(page):
    return read_pages(page.parent)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


def test_exhibits_are_grouped_as_the_paper_groups_them():
    numbers = [[cell.split() for cell in line.split("|")] for line in PRINTED.split("\n") if line]
    names = [[[f"beniwal2025/{kind}{n}" for kind, n in zip(("table", "fig", "table", "fig"), cell, strict=True)] for cell in line] for line in numbers]
    assert [list(splits.values()) for splits in index_of("beniwal2025").values()] == names
    assert list(index_of("beniwal2025")) == ["Aya-Expanse-8B", "Aya-23-8B", "mT5-large", "BLOOM-7B1"]
    of_role = {EXHIBITS[name].roles for model in names[1] for name in model}
    assert of_role == {("aya-23-8b",)}, "a model's exhibits show one model"
    assert not any(index_of(paper) for paper in PAPERS if paper != "beniwal2025")


def test_every_exhibit_is_in_one_group():
    for paper in PAPERS:
        mine = [e.name for e in EXHIBITS.values() if e.paper == paper]
        assert sorted(name for g in groups(paper) for name in g.names) == sorted(mine)
    assert [g.title for g in groups("beniwal2025")] == ["Overview", "Aya-Expanse-8B", "Aya-23-8B", "mT5-large", "BLOOM-7B1", "Embeddings"]


def test_every_link_leads_somewhere(page, found):
    assert len(found) == 5 + len(EXHIBITS)
    for one in found.values():
        assert len(one.ids) == len(set(one.ids)), f"an id of {one.path.name} is there twice"
        assert all(s.startswith("data:") or (one.path.parent / s).is_file() for s in one.sources), one.path.name
        for target, fragment in one.targets():
            assert target.is_file() and target.is_relative_to(page.parent.resolve()), (one.path.name, target)
            assert not fragment or fragment in found[target].ids, (one.path.name, target.name, fragment)


def test_every_exhibit_is_two_clicks_from_the_front_page(page, found):
    front = found[page.resolve()]
    for name, e in EXHIBITS.items():
        assert href(name) in front.links, "one click: the card"
        on = found[(page.parent / f"{e.paper}.html").resolve()]
        assert f"{e.paper}.html" in front.links and anchor(name) in on.ids, "two clicks: the page, and there its part"
    index = found[(page.parent / "beniwal2025.html").resolve()].links
    assert all(href(name) in index for name, e in EXHIBITS.items() if place(e))


def test_nothing_comes_from_elsewhere_and_nothing_needs_a_script(page, found):
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|@font-face|@import|url\(", text), path.name
        assert "<script src" not in text and text.count("<script>") == ("notebooks" not in path.parts), path.name
    shown = re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert all(e.title.split(",")[0] in shown.replace("&#39;", "'") for e in EXHIBITS.values() if not place(e))


def test_the_front_page_is_light(page, found):
    "All of it, small pictures too, which come only when they are scrolled to"
    pictures = list((page.parent / "thumbnails").iterdir())
    assert len(pictures) > 80 and max(p.stat().st_size for p in pictures) < 6_000
    assert page.stat().st_size < 110_000
    assert page.stat().st_size + sum(p.stat().st_size for p in pictures) < 300_000
    assert all(image["loading"] == "lazy" for image in found[page.resolve()].images)
    assert all(path.stat().st_size < 600_000 for path in page.parent.glob("*.html"))
    for paper in PAPERS:
        assert all(image["loading"] == "lazy" and image["width"] for image in found[(page.parent / f"{paper}.html").resolve()].images)


def test_every_verdict_is_counted_where_it_belongs(page, run):
    board = scoreboard(run)
    text = page.read_text(encoding="utf-8")
    for paper in PAPERS:
        [card] = re.findall(rf'<a href="{paper}\.html">[^<]*</a>\s*(?:<span class="small">.*?</span>\s*)?<span class="soft small">(.*?)</li>', text, re.DOTALL)
        counts = {word: int(n) for n, word in re.findall(r"<b>(\d+)</b> ([a-z ]+)<", card)}
        assert counts == board[board["exhibit"].str.startswith(f"{paper}/")]["verdict"].value_counts().to_dict()
    for claim, mine in board.groupby("claim"):
        [row] = re.findall(rf'#claim-{claim}">.*?</tr>', text, re.DOTALL)
        assert {word: int(n) for n, word in re.findall(r"<b>(\d+)</b> ([a-z ]+)<", row)} == mine["verdict"].value_counts().to_dict(), claim


def test_pages_read_in_order(found):
    for path, one in found.items():
        if "notebooks" not in path.parts:
            assert one.headings[0] == 1 and one.headings.count(1) == 1
            assert all(b - a <= 1 for a, b in zip(one.headings, one.headings[1:], strict=False)), path.name
            assert all(head.get("scope") in ("col", "row", "colgroup", "rowgroup") for head in one.heads), path.name
            assert all(len(image["alt"]) > 30 for image in one.images), path.name


@pytest.mark.parametrize("width, height", [(390, 844), (1280, 900)])
def test_no_page_is_wider_than_its_window(browser, page, width, height):
    resize(browser, width, height)
    notebook = page.parent / "notebooks/beniwal2025/table1.html"
    for path in (page, *(page.parent / f"{paper}.html" for paper in PAPERS), notebook):
        visit(browser, path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path.name
        assert browser.execute_script(CUT_OFF) == 0, path.name


DEEP = ["li2024/fig4", "beniwal2025/table1", "beniwal2025/fig32", "neuronft2025/table5", "ours/worlds"]


@pytest.mark.parametrize("width, height", [(390, 844), (1280, 900)])
def test_links_to_the_one_page_of_earlier_reports_lead_on(browser, page, width, height):
    resize(browser, width, height)
    for name in DEEP:
        for fragment in (anchor(name), f"{anchor(name)}-title"):
            browser.get("about:blank")
            browser.get(f"{page.as_uri()}#{fragment}")
            assert browser.current_url == f"{(page.parent / href(name)).as_uri()}".replace("%23", "#")
            assert browser.execute_script(IN_VIEW, anchor(name)), (name, width)
    for fragment in ("scoreboard", "provenance"):
        browser.get(f"{page.as_uri()}#{fragment}")
        assert browser.current_url.endswith(f"index.html#{fragment}") and browser.execute_script(IN_VIEW, fragment)


def test_without_a_script_they_lead_to_a_link(browser, page):
    resize(browser, 390, 844)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        for name in DEEP:
            browser.get("about:blank")
            browser.get(f"{page.as_uri()}#{anchor(name)}")
            assert browser.current_url == f"{page.as_uri()}#{anchor(name)}" and browser.execute_script(IN_VIEW, anchor(name))
            browser.find_element("css selector", f"#{anchor(name)} a").click()
            assert browser.current_url.endswith(href(name)) and browser.execute_script(IN_VIEW, anchor(name))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_small_pictures_wait_until_they_are_looked_at(browser, page):
    resize(browser, 390, 844)
    browser.get(page.as_uri())
    there = "return [...document.images].filter(i => i.complete && i.naturalWidth).length"
    assert browser.execute_script(there) < browser.execute_script("return document.images.length") / 2
    browser.execute_script("document.getElementById('ours-worlds').scrollIntoView()")


def test_what_was_not_run_is_folded_and_found_by_its_link(browser, tmp_path):
    run = make_full_run(tmp_path / "part", ["li2024/table6", "beniwal2025/table2"])
    page = build_report(run)
    found = read_pages(page.parent)
    assert all(href(name) in found[page.resolve()].links for name in EXHIBITS), "also those that are not there"
    resize(browser, 390, 844)
    browser.get(page.as_uri())
    folds = browser.execute_script("return [...document.querySelectorAll('details.missing')].map(d => [d.open, d.innerText.split('\\n')[0]])")
    assert [open for open, _ in folds] == [False] * 4 and folds[1][1] == "56 not run"
    browser.get(f"{page.as_uri()}#beniwal2025-table5")
    assert browser.current_url.endswith("beniwal2025.html#beniwal2025-table5") and browser.execute_script(IN_VIEW, "beniwal2025-table5")
