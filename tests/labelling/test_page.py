"""The page in a real browser: what a person presses, sees, and finds on disk afterwards."""

import json
import threading
import time
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from chromium import CONTROL, PATIENCE, SHIFT, Chromium, Page
from rounds import SECRET, Killable, Served, made_round, reserved_port, served

from rlhf_images.preferences import Event, Pairs

READY = "document.querySelector('#stage').dataset.state === 'ready'"
SAVED = "document.querySelector('#saved').textContent === 'saved ✓'"
SHOWN = """[...document.querySelectorAll('.box')].sort((a, b) => a.dataset.side < b.dataset.side ? -1 : 1)
    .map(box => box.firstElementChild.getAttribute('src').slice(3))"""
TRANSFORMS = "[...document.querySelectorAll('.box img')].map(image => getComputedStyle(image).transform)"


@pytest.fixture
def server(pairs):
    with served(pairs, repeats=0) as found:
        yield found


DECODED = """
  window.decoded = 0;
  const { decode } = HTMLImageElement.prototype;
  HTMLImageElement.prototype.decode = function () {
    return decode.call(this).then(() => { window.decoded += 1; });
  };
"""
"""Counts the pictures that have been decoded."""
UNREACHED = "net::ERR_"
"""In what a browser says of a request to a server that was killed: refused, reset, cut off, whichever it met with."""


@contextmanager
def opened(browser: Chromium, address: str, *, killed: bool = False, **options: Any):
    """Open the page in a tab that shares nothing with others, and expect it to have complained of nothing.

    Where the server is ``killed`` on the way, the browser may say that it was not reached.
    """
    page = browser.page(**{"private": True} | options)
    try:
        page.open(address)
        page.until(READY)
        yield page
        assert [error for error in page.errors if not (killed and UNREACHED in error)] == []
    finally:
        page.close()


@pytest.fixture
def page(browser, server):
    with opened(browser, server.address) as found:
        yield found


def shown(page: Page) -> list[str]:
    """Return the ids of the pictures on the left and on the right."""
    page.until(READY)
    return list(page.js(SHOWN))


def answer(page: Page, key: str, modifiers: int = 0) -> list[str]:
    """Press a key and wait for another pair; return what was on the screen before."""
    before = shown(page)
    page.key(key, modifiers)
    page.until(f"JSON.stringify({SHOWN}) !== {json.dumps(json.dumps(before, separators=(',', ':')))}")
    return before


def saved(page: Page, pairs: Pairs, count: int) -> list[Event]:
    """Return the events on disk once there are ``count`` and the page says that they are saved."""
    page.until(SAVED)
    end = time.monotonic() + PATIENCE
    while len(events := pairs.store.events()) < count and time.monotonic() < end:
        time.sleep(0.02)
    assert len(events) == count
    return events


def preferred(pairs: Pairs, vote: Event) -> str:
    pair = {pair.pair: pair for pair in pairs.pairs}[vote.pair]
    return {"left": pair.left, "right": pair.right}.get(str(vote.choice), str(vote.choice))


# Answers


@pytest.mark.parametrize(
    ("key", "modifiers", "wanted", "strength"),
    [
        ("ArrowLeft", 0, 0, 1),
        ("1", 0, 0, 1),
        ("ArrowRight", 0, 1, 1),
        ("2", 0, 1, 1),
        ("ArrowLeft", SHIFT, 0, 2),
        ("ArrowRight", SHIFT, 1, 2),
        ("ArrowUp", 0, "tie", 1),
        ("3", 0, "tie", 1),
        ("ArrowDown", 0, "both_bad", 1),
        ("4", 0, "both_bad", 1),
    ],
)
def test_a_key_votes_for_the_picture_that_it_points_at(page, server, key, modifiers, wanted, strength):
    sides = [answer(page, key, modifiers) for _ in range(3)]
    for vote, pictures in zip(saved(page, server.pairs, 3), sides, strict=True):
        assert preferred(server.pairs, vote) == (pictures[wanted] if isinstance(wanted, int) else wanted)
        assert vote.strength == strength
        assert vote.annotator == "ann"
        assert vote.ms is not None
    assert page.js("document.querySelector('#count').textContent") == "3 / 12"


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_click_votes_for_the_picture_under_it_and_a_button_for_what_it_says(page, server, side):
    clicked = shown(page)
    page.click(f'.box[data-side="{side}"]')
    page.until(f"JSON.stringify({SHOWN}) !== {json.dumps(json.dumps(clicked, separators=(',', ':')))}")
    pressed = shown(page)
    page.click(f'[data-action="much-{side}"]')
    first, second = saved(page, server.pairs, 2)
    number = ["left", "right"].index(side)
    assert preferred(server.pairs, first) == clicked[number]
    assert preferred(server.pairs, second) == pressed[number]
    assert (first.strength, second.strength) == (1, 2)


def test_a_skipped_pair_comes_back_at_the_end(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", 3)
    with served(pairs, repeats=0) as server, opened(browser, server.address) as page:
        skipped = answer(page, " ")
        answer(page, "ArrowLeft")
        page.key("ArrowLeft")
        page.until(f"JSON.stringify({SHOWN}) === {json.dumps(json.dumps(skipped, separators=(',', ':')))}")
        page.until(READY)  # a key before that is no answer to what is not seen yet
        page.key("ArrowRight")
        page.until("!document.querySelector('#over').hidden")
        events = saved(page, pairs, 4)
    assert [event.type for event in events] == ["skip", "vote", "vote", "vote"]
    assert events[0].pair == events[3].pair
    assert preferred(pairs, events[3]) == skipped[1]


def test_a_held_key_votes_once(page, server):
    for key in ("ArrowLeft", "ArrowRight"):
        before = shown(page)
        page.key(key, repeats=30)
        page.until(f"JSON.stringify({SHOWN}) !== {json.dumps(json.dumps(before, separators=(',', ':')))}")
        page.until(READY)
        page.until(SAVED)
    time.sleep(0.3)
    assert [event.type for event in saved(page, server.pairs, 2)] == ["vote", "vote"]


def test_enter_held_on_a_button_votes_once_and_a_mouse_leaves_no_button_behind_for_space(page, server):
    page.js("document.querySelector('[data-action=tie]').focus()")
    page.key("Enter", repeats=20)
    (vote,) = saved(page, server.pairs, 1)
    assert vote.choice == "tie"
    page.until(READY)
    page.click('[data-action="bad"]')
    saved(page, server.pairs, 2)
    page.until(READY)
    page.key(" ")
    assert [event.type for event in saved(page, server.pairs, 3)] == ["vote", "vote", "skip"]


def test_undo_goes_back_as_far_as_there_is_also_after_a_restart(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", 60)
    seen = []
    with Killable(pairs.folder) as server, opened(browser, server.address, killed=True) as page:
        for key in ("ArrowLeft", "ArrowRight", " ", "ArrowUp"):
            seen.append(answer(page, key))
        saved(page, pairs, 4)
        page.key("Backspace")
        page.until(f"{SHOWN}[0] === '{seen[3][0]}'")
        saved(page, pairs, 5)
        server.kill()
        server.start()
        page.open(server.address)
        page.until(READY)
        for key, modifiers, pictures in (("u", 0, seen[2]), ("z", CONTROL, seen[1]), ("Backspace", 0, seen[0])):
            page.key(key, modifiers)
            page.until(f"{SHOWN}[0] === '{pictures[0]}'")
            page.until(READY)
            assert shown(page) == pictures
        events = saved(page, pairs, 8)
        assert [event.type for event in events] == ["vote", "vote", "skip", "vote", "undo", "undo", "undo", "undo"]
        assert [event.undoes for event in events[4:]] == [event.id for event in events[3::-1]]
        assert pairs.store.votes() == []
        page.key("u")
        page.until("document.querySelector('#notice').textContent.includes('nothing left')")
        answer(page, "ArrowRight")
        (vote,) = pairs.store.votes() or [saved(page, pairs, 9)[-1]]
        assert preferred(pairs, vote) == seen[0][1]


def test_more_answers_than_a_page_remembers_can_be_taken_back(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", 50)
    with served(pairs, repeats=0) as server:
        client = server.client()
        for _ in range(45):
            (one,) = client.next(1)["pairs"]
            client.post([{"id": one["pair"], "type": "vote", "pair": one["pair"], "choice": "left"}])
        with opened(browser, server.address) as page:
            for left in range(44, -1, -1):
                page.key("u")
                page.until(f"document.querySelector('#count').textContent === '{left} / 50'")
            page.until(SAVED)
        assert pairs.store.votes() == []


def test_an_answer_of_the_last_five_can_be_given_again(page, server):
    first = answer(page, "ArrowLeft")
    answer(page, "ArrowUp")
    waiting = shown(page)
    page.until("document.querySelectorAll('#last button').length === 2")
    page.click("#last li:first-child button")
    page.until(f"{SHOWN}[0] === '{first[0]}'")
    answer(page, "ArrowRight")
    assert shown(page) == waiting
    events = saved(page, server.pairs, 3)
    assert preferred(server.pairs, server.pairs.store.votes()[-1]) == first[1]
    assert len(server.pairs.store.votes()) == 2
    assert events[0].pair == events[2].pair


def test_flags_comments_and_tags_are_kept(page, server):
    page.key("f")
    page.until("document.querySelector('[data-action=flag]').ariaPressed === 'true'")
    page.key("f")
    page.key("f")
    page.key("c")
    page.until("document.querySelector('#comment').open")
    page.send("Input.insertText", text="six fingers <b>here</b>")
    page.key("1")  # a character of the comment, no vote
    page.click("#comment .main")
    page.key("t")
    page.until("document.querySelector('#tags').open")
    page.key("1")
    page.key("4")
    page.key("Enter")
    page.until("!document.querySelector('#tags').open")
    answer(page, "ArrowLeft")
    events = saved(page, server.pairs, 5)
    assert [event.type for event in events] == ["flag", "undo", "flag", "comment", "vote"]
    assert events[3].text == "six fingers <b>here</b>1"
    assert events[4].tags == ("anatomy", "artefact")
    assert len({event.pair for event in events}) == 1


def test_a_vote_counts_only_when_both_pictures_are_decoded(browser, server):
    free = threading.Event()
    page = browser.page(private=True)
    try:
        server.tap.held["/i/"] = free
        page.open(server.address)
        page.until("document.querySelector('#stage').dataset.state === 'loading'")
        for key in ("ArrowLeft", "ArrowRight", "3"):
            page.key(key)
        page.until("document.querySelector('#notice').textContent.includes('on their way')")
        time.sleep(0.2)
        assert server.pairs.store.events() == []
        free.set()
        page.until(READY)
        page.key("ArrowLeft")
        saved(page, server.pairs, 1)
    finally:
        free.set()
        page.close()


def test_the_next_four_pairs_are_fetched_and_decoded_ahead(browser, server):
    page = browser.page(private=True)
    try:
        page.send("Page.addScriptToEvaluateOnNewDocument", source=DECODED)
        page.open(server.address)
        page.until("window.decoded === 10")
        server.tap.held["/i/"] = threading.Event()  # from now on no picture arrives
        for _ in range(4):
            answer(page, "ArrowLeft")
            assert page.js(READY)
        server.tap.held["/i/"].set()
        saved(page, server.pairs, 4)
    finally:
        server.tap.held.clear()
        page.close()


def test_a_picture_that_cannot_be_shown_is_told_and_skipped(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", 2)
    with served(pairs, repeats=0) as server:
        first = server.client().next(1)["pairs"][0]
        (pairs.folder / "images" / f"{first['right']}.png").write_bytes(b"damaged")
        page = browser.page(private=True)
        try:
            page.open(server.address)
            page.until("document.querySelector('#stage').dataset.state === 'failed'")
            page.key("ArrowLeft")
            page.until("document.querySelector('#notice').textContent.includes('cannot be shown')")
            page.key(" ")
            page.until(READY)
            page.key("ArrowLeft")
            assert [event.type for event in saved(page, pairs, 2)] == ["skip", "vote"]
        finally:
            page.close()


def test_a_fast_vote_is_marked(page, server):
    answer(page, "ArrowLeft")
    page.until(READY)
    time.sleep(0.8)
    answer(page, "ArrowLeft")
    quick, slow = saved(page, server.pairs, 2)
    assert slow.ms >= 700
    rows = server.client().get("/api/history?annotator=ann").json["events"]
    assert [row["fast"] for row in rows] == [False, quick.ms < 600]


# Looking


def boxes(page: Page) -> dict[str, list[float]]:
    """Return where each picture is on the screen."""
    place = "(r => [r.x, r.y, r.width, r.height])(box.getBoundingClientRect())"
    each = f"[...document.querySelectorAll('.box')].map(box => [box.firstElementChild.getAttribute('src'), {place}])"
    return dict(page.js(f"Object.fromEntries({each})"))


def test_a_held_x_shows_each_picture_in_the_others_place_and_votes_for_none(page, server):
    (first, place), (second, other) = boxes(page).items()
    page.key_down("x")
    assert boxes(page) == {first: other, second: place}
    page.key("ArrowLeft")
    page.click(".box")
    page.key_up("x")
    assert boxes(page) == {first: place, second: other}
    page.mouse("mousePressed", *page.where('[data-action="flip"]'))
    assert boxes(page) == {first: other, second: place}
    page.mouse("mouseReleased", *page.where('[data-action="flip"]'))
    assert boxes(page) == {first: place, second: other}
    assert server.pairs.store.events() == []


def test_zoom_and_pan_stay_in_step_and_are_kept_until_reset(page, server):
    left, right = page.js(TRANSFORMS)
    assert left == right == "matrix(1, 0, 0, 1, 0, 0)"
    x, y = page.where('.box[data-side="right"]')
    page.mouse("mouseWheel", x + 40, y - 30, deltaX=0, deltaY=-400)
    page.until(f"{TRANSFORMS}[0] !== 'matrix(1, 0, 0, 1, 0, 0)'")
    left, zoomed = page.js(TRANSFORMS)
    assert left == zoomed
    page.drag((x, y), (x - 90, y + 60))
    left, panned = page.js(TRANSFORMS)
    assert left == panned != zoomed
    assert server.pairs.store.events() == []  # a drag is no click
    answer(page, "ArrowLeft")
    assert page.js(TRANSFORMS) == [panned, panned]
    page.key("0")
    assert page.js(TRANSFORMS) == ["matrix(1, 0, 0, 1, 0, 0)"] * 2
    page.key("z")
    left, right = page.js(TRANSFORMS)
    assert left == right != "matrix(1, 0, 0, 1, 0, 0)"


def test_a_zoom_keeps_the_point_under_the_pointer_where_it_is(page):
    point = "(s => { const m = new DOMMatrix(getComputedStyle(document.querySelector('.box img')).transform);"
    point += " const b = document.querySelector('.box').getBoundingClientRect();"
    point += " return [(%f - b.x - m.e) / m.a, (%f - b.y - m.f) / m.d]; })()"
    x, y = page.where(".box")
    x, y = x + 50, y + 20
    before = page.js(point % (x, y))
    for delta in (-300, -300, 200):
        page.mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)
    page.until("document.querySelector('#stage').dataset.zoomed === 'true'")
    assert page.js(point % (x, y)) == pytest.approx(before, abs=0.5)


def test_pictures_are_never_cropped(browser, tmp_path):
    for size in ((64, 16), (16, 64), (48, 48)):
        pairs = made_round(tmp_path / f"{size}", 1, size=size)
        with served(pairs, repeats=0) as server, opened(browser, server.address) as page:
            for _ in range(3):
                fits = page.js("[...document.querySelectorAll('.box img')].map(i => getComputedStyle(i).objectFit)")
                assert fits == ["contain", "contain"]
                inside = page.js(
                    "[...document.querySelectorAll('.box img')].every(i => { const a = i.getBoundingClientRect(),"
                    " b = i.parentElement.getBoundingClientRect(); return a.width <= b.width && a.height <= b.height"
                    " && b.right <= innerWidth && b.bottom <= innerHeight })"
                )
                assert inside
                page.key("v")


def test_layouts_go_round_and_a_click_in_the_wipe_votes_for_the_side(page, server):
    layout = "document.querySelector('#stage').dataset.layout"
    assert page.js(layout) == "side"
    page.key("v")
    assert page.js(layout) == "stacked"
    assert page.js("document.querySelector('[data-action=left]').innerText").startswith("←\nUpper")
    page.key("v")
    assert page.js(layout) == "wipe"
    pictures = shown(page)
    x, y, width, height = next(iter(boxes(page).values()))
    page.mouse("mouseMoved", x + width * 0.3, y + height / 2)
    page.until("document.querySelector('#stage').style.getPropertyValue('--wipe').startsWith('30')")
    page.mouse("mousePressed", x + width * 0.7, y + height / 2)
    page.mouse("mouseReleased", x + width * 0.7, y + height / 2)
    (vote,) = saved(page, server.pairs, 1)
    assert preferred(server.pairs, vote) == pictures[1]
    page.key("v")
    assert page.js(layout) == "side"


def test_small_pictures_are_shown_as_squares_and_large_ones_smooth(browser, tmp_path):
    for size, wanted in (((16, 16), "pixelated"), ((900, 900), "auto")):
        pairs = made_round(tmp_path / f"{size}", 1, size=size)
        with served(pairs, repeats=0) as server, opened(browser, server.address) as page:
            shown_as = page.js("getComputedStyle(document.querySelector('.box img')).imageRendering")
            assert shown_as == wanted


# What may go wrong


def test_votes_wait_in_the_browser_while_the_server_is_dead_and_are_sent_when_it_is_back(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", 12)
    with Killable(pairs.folder) as server:
        page = browser.page(private=True)
        try:
            page.send("Page.addScriptToEvaluateOnNewDocument", source=DECODED)
            page.open(server.address)
            page.until(READY)
            page.until("window.decoded === 10")
            seen = [answer(page, "ArrowLeft")]
            saved(page, pairs, 1)
            server.kill()
            seen += [answer(page, "ArrowRight"), answer(page, "ArrowLeft")]
            page.until("document.querySelector('#saved').textContent.startsWith('2 unsent')")
            assert len(pairs.store.events()) == 1
            assert page.js("Object.keys(localStorage).filter(key => key.includes('/outbox/')).length") == 2
            server.start()
            events = saved(page, pairs, 3)
            assert [preferred(pairs, vote) for vote in events] == [seen[0][0], seen[1][1], seen[2][0]]
            assert page.js("Object.keys(localStorage).filter(key => key.includes('/outbox/')).length") == 0
            server.kill()
            seen.append(answer(page, "ArrowRight"))
            page.until("document.querySelector('#saved').textContent.startsWith('1 unsent')")
            server.start()
            page.open(server.address)  # closed and opened again: the vote was in the browser's own storage
            page.until(READY)
            events = saved(page, pairs, 4)
            assert preferred(pairs, events[3]) == seen[3][1]
            assert len({event.id for event in events}) == 4
            assert shown(page) not in seen
        finally:
            page.close()


def test_two_annotators_at_once_never_get_the_same_pair_and_keep_their_own_votes(browser, server):
    with (
        opened(browser, f"{server.address}/?annotator=ann") as ann,
        opened(browser, f"{server.address}/?annotator=bob") as bob,
    ):
        for page, key in [(ann, "ArrowLeft"), (bob, "ArrowRight")] * 6:
            page.until(READY)
            page.key(key)
            page.until(SAVED)
        for page in (ann, bob):
            page.until("!document.querySelector('#over').hidden")
            assert "annotator" not in page.js("location.href")
    events = saved_all = server.pairs.store.events()
    assert len(saved_all) == len({event.pair for event in events}) == 12
    assert {event.annotator for event in events} == {"ann", "bob"}
    for name, side in (("ann", "left"), ("bob", "right")):
        for event in server.pairs.store.events(name):
            assert event.choice == (side if not event.swapped else {"left": "right", "right": "left"}[side])


def test_two_tabs_of_one_browser_are_two_annotators(browser, server):
    with (
        opened(browser, f"{server.address}/?annotator=cleo", private=False) as first,
        opened(browser, f"{server.address}/?annotator=dora", private=False) as second,
    ):
        answer(first, "ArrowLeft")
        answer(second, "ArrowLeft")
        first.open(server.address)
        first.until(READY)
        answer(first, "ArrowLeft")
        saved(first, server.pairs, 3)
    assert [event.annotator for event in server.pairs.store.events()] == ["cleo", "dora", "cleo"]


def test_whoever_is_not_named_is_asked_once(browser, pairs):
    with served(pairs, annotator=None, repeats=0) as server:
        page = browser.page(private=True)
        try:
            page.open(server.address)
            page.until("document.querySelector('#who').open")
            page.key("Escape")  # asks again
            page.until("document.querySelector('#who').open && document.activeElement.id === 'name'")
            page.send("Input.insertText", text="Ann K")
            page.key("Enter")
            page.until(READY)
            answer(page, "ArrowLeft")
            assert saved(page, pairs, 1)[0].annotator == "Ann K"
            page.open(server.address)
            page.until(READY)
        finally:
            page.close()


def test_votes_for_one_round_do_not_land_in_another_at_the_same_address(browser, tmp_path):
    old, new = made_round(tmp_path / "old", 12), made_round(tmp_path / "new", 11)
    page = browser.page(private=True)
    with reserved_port() as port, closing(page):
        with served(old, repeats=0, port=port) as server:
            page.open(server.address)
            page.until(READY)
        with served(new, repeats=0, port=port):
            page.key("ArrowLeft")
            page.until("document.querySelector('#saved').textContent.includes('another round')")
            page.open(server.address)
            page.until(READY)
            page.key("ArrowLeft")
            saved(page, new, 1)
            assert old.store.events() == []
        with served(old, repeats=0, port=port):
            page.open(server.address)
            page.until(READY)
            saved(page, old, 1)


def test_with_a_token_the_printed_address_is_all_one_needs(browser, pairs):
    with (
        served(pairs, host="0.0.0.0", token="a-long-and-secret-token", repeats=0) as server,
        opened(browser, f"{server.address}/?token=a-long-and-secret-token") as page,
    ):
        assert page.js("location.search") == ""
        assert page.js("document.cookie") == ""
        answer(page, "ArrowLeft")
        saved(page, pairs, 1)
        page.open(server.address)
        page.until(READY)


ATTACKS = (
    '<img src=x onerror="window.hacked=1">',
    "</h1><script>window.hacked=1</script>",
    "{{7*7}}${7*7}<svg/onload=window.hacked=1>",
    "javascript:window.hacked=1//\"'`",
    "\u202eright to left \u2066and back",
    "x" * 10_000,
)


def test_a_prompt_is_text_whatever_is_in_it(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", len(ATTACKS), prompts=ATTACKS)
    with served(pairs, repeats=0) as server, opened(browser, server.address) as page:
        seen = set()
        for _ in ATTACKS:
            page.until(READY)
            seen.add(page.js("document.querySelector('#prompt').textContent"))
            assert page.js("document.querySelector('#prompt').children.length") == 0
            page.key("ArrowLeft")
            page.until(SAVED)
        assert seen == set(ATTACKS)
        page.open(f"{server.address}/review")
        page.until("document.querySelectorAll('#grid li').length === 6")
        assert page.js("window.hacked") is None
        assert page.js("document.querySelectorAll('#grid script, #grid svg').length") == 0


def test_a_policy_stands_even_if_a_script_came_in(page):
    page.js("const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.head.append(s)")
    page.js("const i = new Image(); i.src = 'http://198.51.100.7/x.png'; document.body.append(i)")
    page.until("document.querySelector('#stage')")
    time.sleep(0.2)
    assert page.js("window.hacked") is None
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


def test_only_loopback_is_asked_and_nothing_tells_whose_pictures_these_are(browser, server):
    with opened(browser, server.address) as page:
        for key in ("ArrowLeft", "ArrowRight", "ArrowUp", " ", "u"):
            page.key(key)
            page.until(SAVED)
            page.until(READY)
        told = page.js("document.documentElement.outerHTML + document.title + JSON.stringify({...localStorage})")
        for path in ("/review", "/stats", "/guide"):
            page.open(server.address + path)
            page.until("document.querySelector('.card, #grid li, #guide p')")
            told += page.js("document.documentElement.outerHTML + document.title")
        asked = {urlsplit(request["url"]) for request in page.requests}
    assert {(url.hostname, url.port) for url in asked} == {("127.0.0.1", server.port)}
    assert {url.scheme for url in asked} == {"http"}
    traffic = b"".join(path.encode() + sent for path, sent in server.tap.sent)
    assert sum(path.startswith("/i/") for path, _ in server.tap.sent) >= 10
    for secret in (SECRET, "secret", "steps", server.pairs.folder.name, str(server.pairs.folder.parent)):
        assert secret.encode() not in traffic
        assert secret not in told
        assert not any(secret in url.geturl() for url in asked)


# For everyone


def test_single_keys_can_be_switched_off(page, server):
    page.key("?")
    page.until("document.querySelector('#help').open")
    page.click("#single")
    page.key("Escape")
    page.until("!document.querySelector('#help').open")
    assert page.js("document.querySelector('[data-action=left] kbd').textContent") == ""
    for key in ("ArrowLeft", "1", " ", "f", "x", "u", "Backspace"):
        page.key(key)
    time.sleep(0.2)
    assert server.pairs.store.events() == []
    page.js("document.querySelector('[data-action=right]').focus()")
    page.key(" ")
    saved(page, server.pairs, 1)
    page.key("z", CONTROL)
    assert [event.type for event in saved(page, server.pairs, 2)] == ["vote", "undo"]
    page.open(server.address)
    page.until(READY)
    page.key("ArrowLeft")
    time.sleep(0.2)
    assert len(server.pairs.store.events()) == 2  # kept


def test_a_key_right_after_a_dialog_is_meant_for_the_pair(page, server):
    """A browser takes the focus from a closed dialog a frame later; until then its checkbox would get the key."""
    page.key("?")
    page.until("document.querySelector('#help').open")
    page.js("document.querySelector('#single').focus()")
    press = "new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true, cancelable: true})"
    page.js(f"document.querySelector('#help').close(); document.querySelector('#single').dispatchEvent({press})")
    (vote,) = saved(page, server.pairs, 1)
    assert vote.type == "vote"


def test_a_key_can_be_given_to_another_action(page, server):
    page.key("?")
    page.until("document.querySelector('#help').open")
    page.click('[data-binds="tie"]')
    page.key("j")
    page.click('[data-binds="skip"]')
    page.key("ArrowLeft")  # taken from "left is better", which keeps its other key
    page.key("Escape")
    page.until("!document.querySelector('#help').open")
    assert page.js("document.querySelector('[data-action=tie] kbd').textContent") == "J"
    assert page.js("document.querySelector('[data-action=left] kbd').textContent") == "1"
    for key in ("j", "ArrowLeft", "1"):
        answer(page, key)
    page.key("ArrowUp")  # does nothing any more
    found = [(event.type, event.choice) for event in saved(page, server.pairs, 3)]
    assert found[:2] == [("vote", "tie"), ("skip", None)]
    assert found[2][0] == "vote"


def test_every_action_is_a_button_large_enough_named_and_visible_when_focused(page):
    buttons = page.js(
        "[...document.querySelectorAll('[data-action]')].map(b => { b.focus(); const r = b.getBoundingClientRect();"
        " return [b.dataset.action, b.tagName, r.width, r.height, (b.ariaLabel || b.innerText).trim(),"
        " getComputedStyle(b, null).cursor] })"
    )
    from_keys = page.js("import('/page/keys.js').then(module => Object.keys(module.ACTIONS))")
    assert sorted(name for name, *_ in buttons) == sorted(from_keys)
    for name, tag, width, height, words, _ in buttons:
        assert tag == "BUTTON", name
        assert width >= 44, name
        assert height >= 44, name
        assert words, name
    page.js("document.querySelector('#prompt').focus()")
    for _ in range(3):
        page.key("Tab")
        style = "getComputedStyle(document.activeElement)"
        assert page.js(f"{style}.outlineStyle + {style}.outlineWidth") == "solid3px"
    assert page.js("document.querySelector('#saved').ariaLive") == "polite"
    assert page.js("document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_surround_is_neutral_grey_and_text_can_be_read_on_it(browser, server, scheme):
    page = browser.page(private=True)
    try:
        page.scheme(scheme)
        page.open(server.address)
        page.until(READY)
        for _ in range(2):
            ground = colour(page, "body", "backgroundColor")
            assert len(set(ground)) == 1
            for selector in ("#prompt", "#count", ".status nav a", "[data-action=undo]"):
                assert contrast(colour(page, selector, "color"), ground) >= 4.5, selector
            before = ground
            page.key("d")
            page.until(
                f"getComputedStyle(document.body).backgroundColor !== 'rgb({before[0]}, {before[0]}, {before[0]})'"
            )
        page.key("d")
        page.open(f"{server.address}/guide")
        assert colour(page, "body", "backgroundColor") == ground  # the choice is kept on the other pages
    finally:
        page.close()


def colour(page: Page, selector: str, name: str) -> list[int]:
    text = page.js(f"getComputedStyle(document.querySelector({selector!r})).{name}")
    return [int(float(part)) for part in text[text.index("(") + 1 : -1].split(",")[:3]]


def contrast(one: list[int], other: list[int]) -> float:
    def luminance(rgb: list[int]) -> float:
        linear = [v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_on_a_phone_all_is_in_reach_and_a_swipe_or_a_tap_votes(browser, server):
    with opened(browser, server.address, width=390, height=844, phone=True) as page:
        assert page.js("document.querySelector('#stage').dataset.layout") == "stacked"
        assert page.js(
            "[document.documentElement.scrollWidth <= innerWidth, document.documentElement.scrollHeight <= innerHeight]"
        ) == [True, True]
        for action in ("left", "right", "tie", "bad", "much-left", "much-right"):
            rectangle = f"document.querySelector('[data-action={action}]').getBoundingClientRect()"
            x, y, width, height = page.js(f"(r => [r.x, r.y, r.width, r.height])({rectangle})")
            assert width >= 44
            assert height >= 44
            assert 0 <= x <= x + width <= 390
            assert 0 <= y <= y + height <= 844
        areas = page.js("[...document.querySelectorAll('.box')].map(box => box.clientWidth * box.clientHeight)")
        assert sum(areas) > 0.55 * 390 * 844
        x, y = page.where("#stage")
        seen = []
        for dx, dy in ((0, -150), (0, 150), (150, 0), (-150, 0)):
            seen.append(shown(page))
            page.swipe((x, y), (x + dx, y + dy))
            page.until(f"{SHOWN}[0] !== '{seen[-1][0]}'")
        seen.append(shown(page))
        tap = page.where('.box[data-side="right"]')
        page.swipe(tap, tap, steps=1)
        votes = saved(page, server.pairs, 5)
    wanted = [seen[0][0], seen[1][1], "tie", "both_bad", seen[4][1]]
    assert [preferred(server.pairs, vote) for vote in votes] == wanted


@pytest.mark.parametrize(("width", "height", "phone"), [(390, 844, True), (1280, 800, False), (1440, 900, False)])
def test_no_page_is_wider_than_the_screen_and_no_tool_is_cut_off(browser, server, width, height, phone):
    for name in ("ann", "bob"):
        client = server.client(name)
        for pair in client.next(5)["pairs"]:
            client.post([{"id": f"{name}{pair['pair']}", "type": "vote", "pair": pair["pair"], "choice": "left"}])
    with opened(browser, server.address, width=width, height=height, phone=phone) as page:
        page.until("document.querySelectorAll('#last button').length === 5")
        tools = page.js("(tools => tools.scrollWidth - tools.clientWidth)(document.querySelector('.tools'))")
        assert phone or tools <= 0
        for path, there in (("", ".box img"), ("review", "#grid li"), ("stats", ".outcomes"), ("guide", "#guide p")):
            page.open(f"{server.address}/{path}")
            page.until(f"document.querySelector({there!r})")
            assert page.js("document.documentElement.scrollWidth") <= width, path


def test_two_fingers_zoom_and_vote_for_nothing(browser, server):
    with opened(browser, server.address, width=390, height=844, phone=True) as page:
        x, y = page.where('.box[data-side="left"]')
        touch = lambda kind, spread: page.send(  # noqa: E731
            "Input.dispatchTouchEvent",
            type=kind,
            touchPoints=[{"x": x - spread, "y": y, "id": 1}, {"x": x + spread, "y": y, "id": 2}] if spread else [],
        )
        touch("touchStart", 20)
        for spread in (30, 45, 60):
            touch("touchMove", spread)
        touch("touchEnd", 0)
        assert page.js("document.querySelector('#stage').style.getPropertyValue('--zoom')") == "3"
        time.sleep(0.2)
        assert server.pairs.store.events() == []


# The other pages


def test_the_end_of_a_round_says_what_came_of_it_and_what_is_next(browser, tmp_path):
    pairs = made_round(tmp_path / "pairs", 2)
    command = "rlhf-images train-reward x.yaml 'pairs=a b'"
    with (
        served(pairs, repeats=0, next_step=lambda _: command) as server,
        opened(browser, server.address) as page,
    ):
        answer(page, "ArrowLeft")
        page.key("ArrowRight")
        page.until("document.querySelector('#over .command')")
        text = page.js("document.querySelector('#over').innerText")
        assert page.js("document.querySelector('#over code').textContent") == command
        for words in ("Votes a minute", "agree with yourself", "left side", "decided votes"):
            assert words in text
        page.key("u")
        page.until(READY)
        assert page.js("document.querySelector('#over').hidden")
        page.key("ArrowLeft")
        page.until("!document.querySelector('#over').hidden")


def test_a_vote_can_be_found_in_the_review_and_given_again(browser, server):
    with opened(browser, server.address) as page:
        page.key("f")
        flagged = answer(page, "ArrowLeft")
        time.sleep(0.7)
        slow = answer(page, "ArrowLeft")
        saved(page, server.pairs, 3)
        page.open(f"{server.address}/review")
        page.until("document.querySelectorAll('#grid li').length === 2")
        page.click('[data-filter="flagged"]')
        page.until("document.querySelectorAll('#grid li').length === 1")
        assert page.js("document.querySelector('#grid img').getAttribute('src')") == f"/i/{flagged[0]}"
        page.click('[data-filter="disagrees"]')
        page.until("document.querySelectorAll('#grid li').length === 0")
        page.click('[data-filter="all"]')
        page.until("document.querySelectorAll('#grid li').length === 2")
        page.click("#grid li:first-child a")
        page.until(READY)
        assert shown(page) == slow
        page.key("ArrowRight")
        page.until("location.pathname === '/review'")
        page.until("document.querySelectorAll('#grid li').length === 2")
        assert page.js("document.querySelector('#grid a').dataset.choice") == "right"
    votes = server.pairs.store.votes()
    assert len(votes) == 2
    assert preferred(server.pairs, votes[-1]) == slow[1]


def test_the_guidelines_can_be_edited(browser, server):
    page = browser.page(private=True)
    try:
        page.open(f"{server.address}/guide")
        page.until("document.querySelector('#guide h1').textContent === 'How to judge'")
        page.click("#edit")
        page.until("document.querySelector('#text').value.startsWith('# How')")
        page.js("document.querySelector('#text').value = '# Bold strokes\\n\\nand *nothing* else'")
        page.click("#editor .main")
        page.until("document.querySelector('#guide h1').textContent === 'Bold strokes'")
        assert (server.pairs.folder / "guidelines.md").read_text() == "# Bold strokes\n\nand *nothing* else"
        assert page.errors == []
    finally:
        page.close()


def test_the_figures_of_a_round_are_shown(browser, server):
    for name, choice in (("ann", "left"), ("bob", "right")):
        client = server.client(name)
        for pair in client.next(4)["pairs"]:
            client.post([{"id": f"{name}{pair['pair']}", "type": "vote", "pair": pair["pair"], "choice": choice}])
    page = browser.page(private=True)
    try:
        page.open(f"{server.address}/stats")
        page.until("document.querySelectorAll('#stats .card').length === 2")
        text = page.js("document.querySelector('#stats').innerText")
        assert "8 / 12" in text
        assert "bob" in text
        assert page.js("document.querySelector('.outcomes + small').textContent") == "4 · 0 · 0"
        assert page.errors == []
    finally:
        page.close()


def test_the_page_is_as_served(page, server: Served):
    """No answer of the page's own files is missed by the tests above: all come from the server, none fails."""
    assert {found["status"] for found in page.answers.values()} == {200}
    assert {"/page/label.js", "/page/label.css"} <= {path for path, _ in server.tap.sent}
