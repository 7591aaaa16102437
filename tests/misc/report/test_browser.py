"""The page in a real browser: headless Chromium opens it, moves its sliders, reads its log."""

import shutil
import time

import pytest

from step import html_report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
Keys = webdriver.Keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"
)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
           "--window-size=1280,1000")  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, result):
    """The page of the result folder, with its first pictures drawn."""
    html_report.run(result.args)
    browser.get((result.folder / "report.html").as_uri())
    wait(browser, "return data.first_picture")
    yield browser
    assert browser.get_log("browser") == []  # no error, no warning, nothing from the network


def wait(browser, script: str):
    """Return the value of a script once it is true."""
    for _ in range(200):
        if found := browser.execute_script(script):
            return found
        time.sleep(0.05)
    raise AssertionError(f"never true: {script}")


def find(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def test_the_page_shows_scores_and_images(page, result):
    assert find(page, "#title")[0].text == result.folder.name
    assert "RIB seed" in find(page, "#scores table")[0].text
    assert "cat" in find(page, "#classes table")[0].text
    loaded = "return [...document.querySelectorAll('.chart')].map((one) => one.naturalWidth > 99)"
    assert page.execute_script(loaded) == [True, True]
    names = [name.text for name in find(page, "#gallery .name")]
    assert sorted(names) == sorted(result.ids)
    find(page, "#order")[0].send_keys("highest")
    assert [name.text for name in find(page, "#gallery .name")] == names[::-1]
    find(page, "#find")[0].send_keys(result.ids[3])
    assert [name.text for name in find(page, "#gallery .name")] == [result.ids[3]]


def test_the_threshold_recolours_the_mask(page, result):
    page.execute_script("return openViewer(0)")
    wait(page, "return byId('viewer').open")
    page.execute_script("byId('threshold').value = 90; setThreshold()")
    expected = page.execute_script("return images.scores[0]")  # masks were cut at 0.9
    found = page.execute_script("return scoreOf(recoloured(layerOfKind()))")
    assert found == pytest.approx(expected, abs=0.05)  # at the size of the page
    find(page, "#threshold")[0].send_keys(Keys.END)
    assert find(page, "#threshold-text")[0].text == "1.00"
    assert page.execute_script("return Math.max(...recoloured(0))") == 0  # nothing is above 1


def test_everything_has_a_name_and_the_keyboard_reaches_it(page):
    page.execute_script("document.querySelector('#gallery button').focus()")
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, "return byId('viewer').open")
    title = find(page, "#viewer-title")[0].text
    find(page, "#viewer-close")[0].send_keys(Keys.ARROW_RIGHT)
    wait(page, f"return byId('viewer-title').textContent !== {title!r}")
    unnamed = """return [...document.querySelectorAll('button, input, select, dialog')]
      .filter((one) => !one.textContent.trim() && !one.labels?.[0]?.textContent.trim()
        && !one.getAttribute('aria-label')).map((one) => one.outerHTML)"""
    assert page.execute_script(unnamed) == []
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(page, "return !byId('viewer').open")
    assert page.execute_script("return document.activeElement.closest('#gallery') !== null")


def test_a_page_without_truth_has_no_empty_parts(browser, result, monkeypatch):
    info = result.args.info
    monkeypatch.setattr(type(info), "mask_path", lambda self, i: self.root / "no" / f"{i}.png")
    (result.folder / "scores.json").unlink()
    html_report.run(result.args)
    browser.get((result.folder / "report.html").as_uri())
    wait(browser, "return data.first_picture")
    assert "agreement" in find(browser, "#gallery .more")[0].text
    for section in ("scores", "classes"):
        assert "there is no ground truth" in find(browser, f"#{section}")[0].text.lower()
    assert browser.get_log("browser") == []
