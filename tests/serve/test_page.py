"""The page in a real browser: Debian's chromium without a head; without it these tests are skipped, and say so."""

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Client, running
from vlcompress.serve.app import create_app
from vlcompress.serve.page import DOCUMENT
from vlcompress.serve.scenes import Scenes
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.start import built_in, make_settings

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium chromium-driver"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,1000",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(10)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with running(make_settings((), home=home, threads="1", sessions="1", poll=0.0, port=0)) as (found, _):
        yield found


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def text_of(browser: Any, selector: str) -> str:
    """Wait until an element says something."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: one(browser, selector).text)
    return str(one(browser, selector).text)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    browser.get(f"http://{address}/")
    one(browser, "#gallery button")
    yield browser
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not errors


@needs_browser
def test_pick_a_picture_ask_and_see_the_answer(page: Any, address: str) -> None:
    pictures = page.find_elements("css selector", "#gallery button")
    assert len(pictures) == len(Scenes.names)
    pictures[2].click()
    assert pictures[2].get_attribute("aria-pressed") == "true"
    one(page, "#question").send_keys("What color is the large circle?\n")
    best = text_of(page, "#best")
    rows = page.find_elements("css selector", "#answers li")
    assert len(rows) == 5
    assert rows[0].text.startswith(best)
    assert "ms in the model" in text_of(page, "#speed")
    assert "lxmert_vqa version 1" in text_of(page, "#facts")
    assert "stored with the picture" in text_of(page, "#facts")
    assert len(page.find_elements("css selector", "#boxes rect")) == 8


@needs_browser
def test_a_suggested_question_shows_what_people_say(page: Any) -> None:
    page.find_elements("css selector", "#gallery button")[0].click()
    chip = one(page, "#chips button")
    question = Scenes().picture(Scenes.names[0]).questions[0]
    assert chip.text == question.sentence
    chip.click()
    assert text_of(page, "#asked") == question.sentence
    assert text_of(page, "#facts").splitlines()[-1] == question.majority


@needs_browser
def test_upload_says_honestly_what_it_does(page: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(Scenes().picture(Scenes.names[5]).jpeg)
    one(page, "#upload").send_keys(str(tmp_path / "mine.jpg"))
    assert "only ever seen drawn shapes" in text_of(page, "#upload-note")
    one(page, "#question").send_keys("What color is the elephant?\n")
    assert "found in its pixels" in text_of(page, "#facts")
    assert "does not know: elephant" in text_of(page, "#note")


@needs_browser
def test_a_broken_upload_is_told_and_the_next_question_works(page: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    one(page, "#upload").send_keys(str(tmp_path / "broken.jpg"))
    one(page, "#question").send_keys("What is it?\n")
    assert "not a picture in one of JPEG, PNG, WEBP" in text_of(page, "#error")
    page.get_log("browser")  # the browser notes the 400; that is not an error of the page
    one(page, "#gallery button").click()
    one(page, "#chips button").click()
    assert text_of(page, "#best")
    assert not one(page, "#error").is_displayed()


@needs_browser
def test_everything_comes_from_the_server_itself(page: Any, address: str) -> None:
    one(page, "#chips button").click()
    text_of(page, "#best")
    names = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert all(name.startswith((f"http://{address}/", "blob:", "data:")) for name in names)


@needs_browser
def test_it_can_be_used_without_seeing_it(page: Any) -> None:
    """Every control has a name and a label, pictures have texts, headings go down in order."""
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = {"button", "textbox", "combobox", "img", "image", "link"}
    nodes = [node for node in tree if node.get("role", {}).get("value") in controls and not node.get("ignored")]
    assert len(nodes) > 15
    assert all(node.get("name", {}).get("value") for node in nodes)
    assert one(page, "html").get_attribute("lang") == "en"
    levels = [int(heading.tag_name[1]) for heading in page.find_elements("css selector", "h1, h2, h3")]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    assert one(page, "#answer [aria-live=polite]")


@needs_browser
def test_it_fits_a_phone(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        one(page, "#chips button").click()
        text_of(page, "#best")
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_browser
def test_with_a_token_it_asks_for_it_first(browser: Any, home: Path) -> None:
    with running(make_settings((), home=home, threads="1", sessions="1", poll=0.0, port=0)) as (found, server):
        object.__setattr__(server._server.settings, "token", "s3cret")
        browser.get(f"http://{found}/")
        one(browser, "#token").send_keys("wrong\n")
        assert "a valid token is needed" in text_of(browser, "#error")
        one(browser, "#token").clear()
        one(browser, "#token").send_keys("s3cret\n")
        one(browser, "#chips button").click()
        assert text_of(browser, "#best")
        assert not one(browser, "#locked").is_displayed()
        browser.get_log("browser")


@needs_browser
@pytest.mark.nightly
def test_every_task_of_an_encoder_can_be_tried(browser: Any, cell: Any, tmp_path: Path) -> None:
    """One server of a classifier of pictures, one of sentences, and two towers with an index: each part of the page."""
    (tmp_path / "star.jpg").write_bytes(Scenes().picture(Scenes.names[0]).jpeg)
    (tmp_path / "captions.txt").write_text("a red star\ntwo circles\n")
    kinds = ("classification", "sentences", "retrieval")
    models = tuple(ModelSpec(kind, cell("encoder", kind).folder) for kind in kinds)
    settings = Settings(models, threads=1, sessions=1, index=tmp_path, demo=built_in, port=0)
    with running(settings) as (found, _):
        browser.get(f"http://{found}/")
        one(browser, "#gallery button")
        pick(browser, "classification v1 (classification)")
        assert not one(browser, "#question").is_displayed()
        assert asked(browser, "") in ("circle", "square", "star")
        pick(browser, "retrieval v1 (retrieval)")
        assert asked(browser, "a red star") == "star.jpg"
        assert "cosine" in text_of(browser, "#scores")
        assert asked(browser, "") in ("a red star", "two circles")
        pick(browser, "retrieval v1 (embeddings)")
        assert asked(browser, "a red star").startswith("A vector of ")
        assert asked(browser, "").startswith("A vector of ")
        pick(browser, "sentences v1 (sentences)")
        assert not one(browser, "#pictures").is_displayed()
        assert not one(browser, "#shown").is_displayed()
        assert asked(browser, "a red star") in ("one", "two", "many")
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def pick(browser: Any, title: str) -> None:
    """Choose a model by what the page calls it."""
    from selenium.webdriver.support.ui import Select

    Select(one(browser, "#model")).select_by_visible_text(title)
    browser.execute_script("document.getElementById('best').textContent = ''")


def asked(browser: Any, text: str) -> str:
    """Ask, and give what the page says first; VLCOMPRESS_SHOTS names a folder for pictures of the page."""
    browser.execute_script("document.getElementById('best').textContent = ''")
    browser.execute_script("document.getElementById('question').value = arguments[0]", text)
    one(browser, "#go").click()
    best = text_of(browser, "#best")
    if shots := os.environ.get("VLCOMPRESS_SHOTS"):
        browser.save_screenshot(f"{shots}/{time.monotonic_ns()}.png")
    return best


@needs_browser
def test_without_a_model_that_takes_pictures_it_says_so(browser: Any, settings: Callable[..., Settings]) -> None:
    with running(settings()) as (address, _):
        browser.get(f"http://{address}/")
        assert "No model on this server answers questions" in text_of(browser, "#nothing")
        assert not one(browser, "#ask").is_displayed()


def test_the_page_allows_its_own_script_alone(client: Client) -> None:
    found = client.get("/")
    assert found.text == DOCUMENT
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "http" not in DOCUMENT.replace("http://www.w3.org/2000/svg", "").replace("HTTP ", "")


def test_the_page_can_be_left_out(settings: Callable[..., Settings]) -> None:
    assert Client(create_app(settings(page=False))).get("/").status_code == 404


def test_the_script_hash_fits_the_script(client: Client) -> None:
    import hashlib

    script = DOCUMENT.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in client.get("/").headers["content-security-policy"]
