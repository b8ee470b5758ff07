"""A headless Chromium for the pages of a report, and what tests ask of a page; without Chromium, a parser that sees links, ids and headings."""
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update",
         "disable-sync")

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
const texts = 'p, td, th, dt, dd, a, h1, h2, h3, h4, .badge, .mark, .tag, .paper, .ci, .name, .what, .mini i, pre, li, summary';
return [...document.querySelectorAll(texts)].filter(e => e.innerText?.trim() && e.offsetParent).map(e => {
  const [light, dark] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((x, y) => y - x);
  return [(light + .05) / (dark + .05), e.innerText.slice(0, 40)];
}).filter(([contrast]) => contrast < 4.5).slice(0, 5)
"""
CUT_OFF = """
const box = t => t.closest('.scroll, .output_area, .markdown');
return [...document.querySelectorAll('table')].filter(t => t.scrollWidth > box(t)?.clientWidth + 2 && getComputedStyle(box(t)).overflowX != 'auto').length
"""
IN_VIEW = "const r = document.getElementById(arguments[0]).getBoundingClientRect(); return r.top > -2 && r.top < innerHeight && r.height > 0"


def start_chromium(folder):
    "A browser whose profile lies in `folder`; the test is skipped where there is none"
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    chromium, driver = (shutil.which(n) for n in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("no chromium with its chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"user-data-dir={folder}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def resize(browser, width, height, dark=False):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
    features = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": n, "value": v} for n, v in features.items()]})


def visit(browser, path):
    "Open a page, and all that is folded in it"
    browser.get(path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


class Page(HTMLParser):
    "A page as a parser sees it: ids, links as (file, fragment), headings, pictures, table heads, and the id that each link stands in"

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.sources, self.headings, self.images, self.heads, self.scripts = path, [], [], [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.append(given.get("href"))
        if tag in ("link", "img", "script", "iframe", "source"):
            self.sources += [given[name] for name in ("href", "src") if name in given]
        self.headings += [int(tag[1])] if tag in ("h1", "h2", "h3", "h4", "h5", "h6") else []
        self.images += [given] if tag == "img" else []
        self.heads += [given] if tag == "th" else []

    def targets(self):
        "Where its links lead: the file, and the id in it"
        for link in self.links:
            path, fragment = urldefrag(link)
            yield (self.path.parent / unquote(path)).resolve() if path else self.path.resolve(), unquote(fragment)


def read_pages(folder: Path) -> dict[Path, Page]:
    "Every page of a report by its path"
    return {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
