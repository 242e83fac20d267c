"""The page in a real browser: nothing leaves the file, nothing complains, and every control works by keyboard."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from chromium import BINARY, Chromium, Page
from test_report import COLUMNS, HOSTILE, compared, content

from rlhf_images.data import encode
from rlhf_images.report import Column, Shot, write_report
from rlhf_images.report.gallery import FILES

pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium here: apt-get install chromium")
SHOWN = "[...document.querySelector('.row').querySelectorAll('.slot')].map(s => !s.hidden)"
COVER = "getComputedStyle(document.querySelector('.row .chosen .cover') ?? document.body).visibility"
ZOOM = "getComputedStyle(document.querySelector('.row .slot.chosen img')).transform"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    given = content(compared(prompts=(HOSTILE, "plain", "a third")))
    write_report(path, given)
    return path


@pytest.fixture
def page(browser, file) -> Iterator[Page]:
    opened = browser.page()
    opened.open(file.as_uri())
    yield opened
    assert not opened.errors
    opened.close()


def test_nothing_is_asked_for_but_the_file_itself(page, file):
    asked = [request["url"] for request in page.requests if not request["url"].startswith("data:")]
    assert asked == [file.as_uri()]
    assert page.js("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_the_slider_and_the_arrows_choose_the_step(page):
    assert page.js(SHOWN) == [True, True, False]  # the best first
    assert page.js("document.getElementById('step-name').textContent") == "step 5 · best"
    page.key("ArrowRight")
    assert page.js(SHOWN) == [True, False, True]
    assert page.js("document.getElementById('step').getAttribute('aria-valuetext')") == "step 10 · last"
    page.key("ArrowRight")
    assert page.js(SHOWN) == [True, False, True]
    page.js("document.getElementById('step').focus()")
    page.key("ArrowLeft")  # the slider's own
    page.key("ArrowLeft")
    assert page.js(SHOWN) == [True, False, False]


def test_holding_b_shows_the_base_in_the_place_of_the_step(page):
    label = "document.querySelector('.row .chosen .name').textContent"
    page.key_down("b")
    assert (page.js(COVER), page.js(label)) == ("visible", "base")
    assert page.js("document.querySelector('.row .chosen .cover img').src === document.querySelector('.row img').src")
    page.key_down("b", repeat=True)
    page.key_up("b")
    assert (page.js(COVER), page.js(label)) == ("hidden", "step 5")
    page.js("document.getElementById('flip').focus()")
    page.key_down(" ")
    assert page.js(COVER) == "visible"
    page.key_up(" ")
    assert page.js(COVER) == "hidden"


def test_the_wipe_lays_the_base_over_a_part(page):
    page.key("w")
    assert page.js("document.getElementById('wipe').getAttribute('aria-pressed')") == "true"
    assert page.js(SHOWN) == [False, True, False]
    clip = "getComputedStyle(document.querySelector('.row .chosen .cover')).clipPath"
    half = page.js(clip)
    page.js("document.getElementById('wipe-at').focus()")
    for _ in range(10):
        page.key("ArrowRight")
    assert page.js("document.getElementById('wipe-at').value") == "60"
    assert page.js(clip) != half
    page.js("document.querySelector('.row').scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y = page.where(".row .chosen .frame")
    page.drag((x, y), (x - 28, y))
    assert page.js("Number(document.getElementById('wipe-at').value)") < 30
    page.key("w")
    assert page.js(SHOWN) == [True, True, False]


def test_zoom_is_the_same_in_every_picture_and_stays_inside(page):
    page.key("+")
    page.key("+")
    assert page.js(ZOOM).startswith("matrix(3, 0, 0, 3,")
    for _ in range(40):
        page.key("ArrowLeft", modifiers=8)
    moved = page.js("[...document.querySelectorAll('.slot:not([hidden]) img')].map(i => getComputedStyle(i).transform)")
    assert len(set(moved)) == 1
    assert page.js("getComputedStyle(document.getElementById('pictures')).getPropertyValue('--x')").startswith("33.3")
    page.key("0")
    assert page.js(ZOOM) == "matrix(1, 0, 0, 1, 0, 0)"


def test_all_steps_rows_and_enlarging_by_keyboard(page):
    page.key("a")
    assert page.js(SHOWN) == [True, True, True]
    page.key("w")  # one at a time
    assert page.js("document.getElementById('all').getAttribute('aria-pressed')") == "false"
    page.key("w")
    page.key("j")
    page.key("j")
    assert page.js("[...document.querySelectorAll('.row')].indexOf(document.activeElement)") == 1
    before = page.js("document.querySelectorAll('.row')[1].querySelector('.slot').offsetWidth")
    page.key("Enter")
    assert page.js("document.querySelectorAll('.row')[1].querySelector('.slot').offsetWidth") > 2 * before
    page.key("k")
    assert page.js("document.activeElement === document.querySelector('.row')")
    assert page.js("document.querySelectorAll('.row[tabindex=\"0\"]').length") == 1  # one stop for Tab


def test_every_control_has_a_name_and_the_theme_turns(page):
    nameless = page.js(
        "[...document.querySelectorAll('button, input, summary, a')].filter(e => !(e.textContent.trim() ||"
        " e.labels?.[0]?.textContent || e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    page.scheme("light")
    light = page.js("getComputedStyle(document.body).backgroundColor")
    page.js("document.getElementById('theme').focus()")
    page.key("Enter")
    assert page.js("getComputedStyle(document.body).backgroundColor") != light


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, file):
    page = browser.page(390, 844, phone=True)
    page.open(file.as_uri())
    assert page.js("document.documentElement.scrollWidth") == 390
    assert not page.errors
    page.close()


def test_on_paper_there_are_no_controls_and_every_row(browser, file):
    page = browser.page()
    page.open(file.as_uri())
    page.send("Emulation.setEmulatedMedia", media="print")
    page.js("dispatchEvent(new Event('beforeprint'))")
    assert page.js("getComputedStyle(document.getElementById('toolbar')).display") == "none"
    assert page.js("[...document.querySelectorAll('.row')].every(row => row.offsetParent)")
    assert not page.errors
    page.close()


def test_pictures_beside_the_page_are_found_and_nothing_else_is_asked_for(browser, tmp_path):
    pictures = [encode(torch.full((3, 96, 96), i / 255), "WEBP") for i in range(64)]
    rows = [
        Shot(f"prompt {i}", 0, [pictures[(i + c) % 64] for c in range(8)], [c * i for c in range(8)]) for i in range(64)
    ]
    columns = [Column("base"), *(Column(f"step {10 * c}") for c in range(1, 8))]
    write_report(tmp_path / "report.html", replace(content(), shots=rows, columns=columns))
    page = browser.page()
    page.open((tmp_path / "report.html").as_uri())
    page.until("document.querySelector('.row .chosen img').naturalWidth === 96")
    root = tmp_path.as_uri()
    asked = {r["url"] for r in page.requests if not r["url"].startswith("data:")} - {f"{root}/report.html"}
    assert asked
    assert all(re.fullmatch(rf"{re.escape(root)}/{FILES}/[0-9a-f]+\.webp", url) for url in asked)
    assert not page.errors
    page.close()


def test_a_page_with_a_single_column_offers_no_step(browser, tmp_path):
    alone = [replace(shot, pictures=shot.pictures[:1], scores=shot.scores[:1]) for shot in content().shots]
    write_report(tmp_path / "report.html", replace(content(), shots=alone, columns=COLUMNS[:1]))
    page = browser.page()
    page.open((tmp_path / "report.html").as_uri())
    assert page.js("document.getElementById('wipe').hidden && document.getElementById('step').closest('.tool').hidden")
    assert not page.errors
    page.close()
