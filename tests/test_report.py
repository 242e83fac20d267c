import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from rlhf_images.data import DIGIT_CAPTIONS, decode, digits, encode
from rlhf_images.report import Column, Compared, Content, Shot, Votes, write_report
from rlhf_images.report.charts import COLOURS
from rlhf_images.report.content import Raised
from rlhf_images.report.gallery import FILES, MAX_PICTURES, MOST_PICTURES, gallery
from rlhf_images.report.page import HIDDEN, SECTIONS, page
from rlhf_images.report.verdict import verdict
from rlhf_images.report.words import duration, number, percent_range, signed

HOSTILE = "<script>alert(1)</script> \"'--><img src=x onerror=alert(1)> $\\frac{1}$ http://example.com/a"
SPACE = "\u00a0"


def compared(prompts=DIGIT_CAPTIONS[:3], per_prompt=4, gain=0.1) -> list[Compared]:
    images, labels = digits()
    pairs = []
    for digit, prompt in enumerate(prompts):
        for seed, image in enumerate(images[labels == digit % 10][:per_prompt]):
            change = gain * (1 + seed + digit)
            pairs.append(Compared(prompt, seed, image, (image * 1.2).clamp(0, 1), 0.5, 0.5 + change))
    return pairs


COLUMNS = [Column("base"), Column("step 5", "best"), Column("step 10", "last")]


def shots(pairs, columns=COLUMNS) -> list[Shot]:
    """A row of the gallery for each pair: the base, something between, and the tuned one."""
    between = [i / max(1, len(columns) - 1) for i in range(len(columns))]
    return [
        Shot(
            pair.prompt,
            pair.seed,
            [encode(torch.lerp(pair.base, pair.tuned, share)) for share in between],
            [pair.utility_base + share * (pair.utility_tuned - pair.utility_base) for share in between],
        )
        for pair in pairs
    ]


def content(pairs=None, rate=0.87, ci=(0.81, 0.92), **changes) -> Content:
    pairs = compared() if pairs is None else pairs
    count = len(pairs)
    rising = [0.01 * i for i in range(count)]
    given = Content(
        title="runs/demo",
        summary={
            "win_rate": rate,
            "win_rate_ci": list(ci) if ci else None,
            "win_rate_pairs": 240,
            "reward_model": {"held_out_accuracy": 0.87, "ceiling": 0.9},
            "diversity_base": 0.5,
            "diversity_tuned": 0.45,
            "seconds": {"pretrain": 60.0, "finetune": 90.5, "total": 151.0},
        },
        compared=pairs,
        metrics=[{"step": i, "reward": 0.1 * i, "reward_std": 0.5, "kl": 0.01 * i, "custom": 1.0} for i in range(6)],
        evaluations=[{"step": s, "reward": s, "sharpness": 0.5, "diversity": 0.5, "distance": 0.1 * s} for s in (0, 5)],
        scores={
            "reward": (rising, [1 + value for value in rising]),
            "utility": (rising, [0.2 + 1.01 * value for value in rising]),
            "sharpness": (rising, list(rising)),
        },
        judge="utility",
        reward_card={"pairs": 300, "calibration": {"brier": 0.11}},
        run={"config": {"seed": 7, "out": "runs/demo"}, "versions": {"torch": "2.13"}, "command": "finetune x.yaml"},
        columns=COLUMNS,
        shots=shots(pairs),
    )
    return replace(given, **changes)


class Elements(HTMLParser):
    """Collects what a browser would load, run or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.raw = {"script": "", "style": ""}
        self.inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in self.raw:
            self.raw[self.inside] += data
        else:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def test_the_file_reaches_for_nothing_and_holds_every_section(tmp_path):
    write_report(tmp_path / "new" / "report.html", content())
    html = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    found = Elements(html)
    assert "http" not in html.replace("http-equiv", "")
    assert all(value.startswith(("data:", "#")) for name in ("src", "href") for value in found.values(name))
    assert not {"iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert found.tags.count("script") == 1
    assert not re.search(r"url\((?!#)|@import", html)
    assert set(SECTIONS) - set(HIDDEN) <= set(found.values("id"))
    assert not set(HIDDEN) & set(found.values("id"))  # two were compared: the verdict says it all
    assert len(found.values("id")) == len(set(found.values("id")))
    assert {"header", "nav", "main", "footer", "h1"} <= set(found.tags)
    assert all(value for tag, name, value in found.attributes if tag == "img" and name == "alt")
    assert [value for tag, name, value in found.attributes if tag == "svg" and name == "aria-label"]
    assert not any(colour in html for colour in COLOURS.values())


def test_the_policy_allows_our_script_and_nothing_else():
    found = Elements(page(content()))
    policy = next(value for tag, name, value in found.attributes if tag == "meta" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(found.raw["script"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_hostile_text_stays_text():
    pairs = compared(prompts=(HOSTILE, "plain"))
    scores = {HOSTILE: ([0.1] * 8, [0.2] * 8), "reward": ([0.1] * 8, [0.2] * 8)}
    rows = [{"step": 0, HOSTILE: 1.0}, {"step": 1, HOSTILE: 2.0}]
    run = {"config": {"prompts": [HOSTILE], HOSTILE: HOSTILE}, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    summary = {**content().summary, f"{HOSTILE}_base": 0.1, "seconds": {HOSTILE: 1.0}}
    picture = encode(torch.zeros(3, 8, 8))
    found = Elements(
        page(
            Content(
                title=HOSTILE,
                summary=summary,
                compared=pairs,
                metrics=rows,
                evaluations=rows,
                scores=scores,
                judge=HOSTILE,
                reward_card={HOSTILE: HOSTILE},
                run=run,
                compare_command=HOSTILE,
                names=(HOSTILE, "tuned"),
                columns=[Column(HOSTILE, HOSTILE), Column("b")],
                shots=shots(pairs, COLUMNS[:2]),
                votes=[Votes(HOSTILE, HOSTILE, 0.5, 0.4, 0.6, 9, 2, 1, HOSTILE)],
                unfinished=HOSTILE,
                alarms=[Raised(HOSTILE, 5, HOSTILE, HOSTILE, [(HOSTILE, picture, picture)])],
                alarm_command=HOSTILE,
                best={"step": 5, "judge": HOSTILE, "score": 0.1},
            )
        )
    )
    assert found.tags.count("script") == 1
    assert "alert" not in found.raw["script"]
    assert not {"x"} & set(found.values("src"))
    assert not found.values("onerror")
    assert HOSTILE in found.text
    assert any(HOSTILE in value for value in found.values("alt"))


@pytest.mark.parametrize(
    ("rate", "ci", "outcome", "words"),
    [
        (0.87, (0.81, 0.92), "better", "Better than the base"),
        (0.53, (0.44, 0.61), "unclear", "no evidence"),
        (0.55, (0.5, 0.6), "unclear", "no evidence"),
        (0.3, (0.2, 0.41), "worse", "worse than the base"),
        (0.9, None, "unknown", "there is no verdict"),
        (None, (None, None), "unknown", "There is no win rate"),
        (math.nan, (math.nan, math.nan), "unknown", "There is no win rate"),
    ],
)
def test_the_verdict_follows_the_interval(rate, ci, outcome, words):
    given = content(rate=rate, ci=ci)
    assert verdict(given).outcome == outcome
    assert words in Elements(page(given)).text


def test_the_verdict_can_be_checked():
    text = Elements(page(content())).text
    assert f"Preferred over the base in 87{SPACE}% of 240 pairs by the judge ‘utility’" in text
    assert f"95{SPACE}% CI 81–92, clustered by 3 prompts" in text
    assert "No human comparison yet" in text
    assert "To compare them yourself" not in text
    assert "label --compare" in Elements(page(content(compare_command="rlhf-images label --compare runs/demo"))).text


VOTED = Votes("base", "runs/demo", 0.55, 0.41, 0.69, 60, 8, 2, "votes")
RAISED = Raised("mode collapse", 20, "they keep 40 %", "more kl_weight", [])


@pytest.mark.parametrize(
    ("changes", "first", "then"),
    [
        ({}, "Let people judge, blind", "COMPARE"),
        ({"votes": [replace(VOTED, value=0.8, low=0.7, high=0.9)]}, "Ship it", ""),
        ({"votes": [VOTED]}, "Do not ship it for this", "783 would tell it from an even split"),
        ({"rate": 0.5, "ci": (0.4, 0.6)}, "Do not ship it for this", "More pictures"),
        ({"rate": 0.2, "ci": (0.1, 0.3)}, "Do not ship it: keep the base", "kl_weight"),
        ({"rate": None, "ci": None}, "Draw pictures of both", "EVALUATE"),
        ({"alarms": [RAISED], "quiet": 15}, "Do not ship it as it is", "Look at step 15"),
        ({"alarms": [RAISED], "quiet": 15}, "Do not ship it as it is", "QUIET"),
        ({"alarms": [RAISED], "quiet": 15}, "Do not ship it as it is", "ALARM"),
        ({"alarms": [RAISED], "quiet": 0}, "Do not ship it as it is", "No checkpoint is free of it"),
        ({"unfinished": "step 4 of 9"}, "The run goes on", "Let people judge"),
    ],
)
def test_the_verdict_says_what_to_do_next(changes, first, then):
    commands = {"compare_command": "COMPARE", "evaluate_command": "EVALUATE"}
    commands |= {"alarm_command": "ALARM", "quiet_command": "QUIET"}
    found = verdict(content(**changes, **commands))
    assert found.next[0].text.startswith(first)
    said = " ".join(f"{step.text} {step.command or ''}" for step in found.next)
    assert then in said
    assert ("Ship it" in said) == (first == "Ship it")  # never from a program's word alone
    assert (found.compare_command is None) == ("COMPARE" in said)  # told once


def test_a_better_checkpoint_than_the_last_is_named():
    row = {"win_rate": 0.9, "win_rate_ci": [0.8, 0.97]}
    known = {"best": {"step": 4, "judge": "utility", "score": 1.0}, "rate": 0.2, "ci": (0.1, 0.3)}
    found = verdict(content(**known, generators={"best": row}))
    assert any("step 4, in best/, is preferred" in step.text for step in found.next)
    doubtful = verdict(content(**known, generators={"best": row | {"win_rate_ci": [0.4, 0.97]}}))
    assert not any("in best/" in step.text for step in doubtful.next)


def test_a_collapse_is_called_one():
    given = content()
    fallen = replace(given, summary={**given.summary, "diversity_tuned": 0.3})
    assert verdict(given).outcome == "better"
    assert verdict(fallen).outcome == "mixed"
    assert f"Mode collapse: the pictures of a prompt keep only 60{SPACE}%" in page(fallen)
    assert "Mode collapse" not in page(given)


def test_a_fallen_judge_is_told_apart_from_noise():
    given = content()
    base = [0.9 + 0.01 * (i % 3) for i in range(12)]
    fallen = {**given.scores, "sharpness": (base, [value - 0.1 - 0.01 * (i % 2) for i, value in enumerate(base)])}
    noisy = {**given.scores, "sharpness": (base, [value + (-0.1, 0, 0.09)[i // 4] for i, value in enumerate(base)])}
    found = verdict(replace(given, scores=fallen))
    assert found.outcome == "mixed"
    assert any("‘sharpness’ fell from 0.910 to 0.805" in notice.text for notice in found.notices)
    assert verdict(replace(given, scores=noisy)).outcome == "better"


def test_a_result_that_rests_on_the_trained_reward_alone_is_doubted():
    given = content()
    alone = verdict(replace(given, scores={"reward": given.scores["reward"]}, judge="reward"))
    assert alone.outcome == "mixed"
    assert "No held-out judge" in alone.notices[0].text
    sunk = verdict(replace(given, scores={**given.scores, "reward": ([1.0] * 12, [0.5] * 12)}))
    assert "did not rise" in sunk.notices[0].text


def test_missing_values_are_dashes():
    empty = Content("runs/empty", {}, [], [], [], {}, "utility", None, {})
    text = Elements(page(empty)).text
    assert "–" in text
    assert "nan" not in text.lower()
    nan = math.nan
    pairs = [replace(pair, utility_base=nan) for pair in compared()]
    holes = replace(
        content(pairs, highest_labelled=nan, best={"step": None}),
        metrics=[{"step": 0, "reward": nan, "kl": nan}, {"reward": 1.0}, {"step": 2, "reward": 1.0, "loss": math.inf}],
        evaluations=[{"step": 0}, {"step": 5, "diversity": nan, "sharpness": None}],
        scores={"reward": ([nan] * 12, [0.1] * 12), "utility": ([nan] * 12, [None] * 12), "sharpness": ([], [0.1])},
        reward_card={"held_out_accuracy": nan, "threshold": None},
        run={"config": None, "commit": None},
    )
    holed = Elements(page(holes)).text
    assert not re.search(r"\b(nan|inf|None)\b", holed)
    assert "Best change" not in holed
    assert "Every prompt, unselected" in holed


def test_the_same_content_gives_the_same_bytes():
    assert page(content()) == page(content())


def test_the_gallery_shows_best_median_and_worst_and_says_so():
    pairs = compared(per_prompt=20)
    found = gallery(content(pairs))
    assert found is not None
    best, median, worst, plain = found.groups
    assert best.cards[0].slots[-1].score == max(pair.utility_tuned for pair in pairs)
    assert worst.cards[0].slots[-1].score == min(pair.utility_tuned for pair in pairs)
    changes = sorted(pair.utility_tuned for pair in pairs)
    assert changes[27] <= median.cards[0].slots[-1].score <= changes[32]
    shown = [(card.prompt, card.seed) for group in found.groups for card in group.cards]
    assert len(shown) == len(set(shown)) == 60
    assert plain.how == (
        "The first 20 seeds of every kept prompt, in the order they were drawn;"
        " those already shown above are not repeated."
    )
    assert [column.name for column in found.columns][found.start] == "step 5"  # the best is shown first
    assert found.pixelated
    assert found.slot % 16 == 0
    assert plain.cards[0].slots[0].address.startswith("data:image/png;base64,")
    assert not found.files


@pytest.mark.parametrize(("prompts", "per_prompt", "columns"), [(64, 1, 8), (64, 4, 8), (200, 1, 2), (3000, 1, 2)])
def test_many_pictures_lie_beside_the_page_and_there_is_a_limit(prompts, per_prompt, columns):
    data = [encode(torch.full((3, 4, 4), i / 255)) for i in range(256)]
    rows = [
        Shot(f"prompt {p}", seed, [data[(p + c) % 256] for c in range(columns)], [p / 9 + c for c in range(columns)])
        for seed in range(per_prompt)
        for p in range(prompts)
    ]
    found = gallery(content(shots=rows, columns=[Column(f"step {c}") for c in range(columns)]))
    assert found is not None
    assert MAX_PICTURES < found.count <= MOST_PICTURES + 12 * columns
    addresses = {slot.address for group in found.groups for card in group.cards for slot in card.slots}
    assert addresses == {f"{FILES}/{name}" for name in found.files}
    told = {card.prompt for group in found.groups for card in group.cards}
    assert (
        len(told) == prompts
        or f"the first {MOST_PICTURES // columns - 12} of {prompts} kept prompts" in found.groups[-1].how
    )


def test_pictures_beside_the_page_are_those_of_this_page_and_no_others(tmp_path):
    image = [encode(torch.full((3, 80, 80), i / 255), "WEBP") for i in range(200)]
    rows = [Shot(f"p{i}", 0, [image[i], image[i + 1]], [0.0, i / 9]) for i in range(150)]
    (tmp_path / FILES).mkdir()
    (tmp_path / FILES / "old.webp").write_bytes(b"")
    write_report(tmp_path / "report.html", content(shots=rows, columns=COLUMNS[:2]))
    html = (tmp_path / "report.html").read_text()
    sources = {value for tag, name, value in Elements(html).attributes if (tag, name) == ("img", "src")}
    assert {f"{FILES}/{path.name}" for path in (tmp_path / FILES).iterdir()} == sources
    assert "send both" in html
    write_report(tmp_path / "report.html", content())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_large_pictures_are_shrunk_and_smooth():
    picture = encode(torch.rand(3, 300, 700), "WEBP")
    found = gallery(content(shots=[Shot("p", 0, [picture, picture], [0.0, 1.0])], columns=COLUMNS[:2]))
    assert found is not None
    assert not found.pixelated
    assert (found.width, found.height) == (700, 300)
    address = found.groups[0].cards[0].slots[0].address
    assert address.startswith("data:image/webp;base64,")
    shrunk = decode(base64.b64decode(address.partition(",")[2]))
    assert shrunk.shape == (3, 219, 512)


def test_long_runs_are_thinned_and_say_so():
    given = content(metrics=[{"step": i, "reward": 0.001 * i} for i in range(1, 5001)])
    assert "400 of 5000 steps, evenly chosen." in Elements(page(given)).text


def test_numbers_in_words():
    assert [number(x) for x in (0.5, 1234.5, 0.00001, 0, None, math.nan)] == [
        "0.500",
        "1,234",
        "1.00e−05",
        "0.00",
        "–",
        "–",
    ]
    assert [signed(x, 2) for x in (0.1, -0.1, 0.001, -0.001, None)] == ["+0.10", "−0.10", "0.00", "0.00", "–"]
    assert (percent_range(0.81, 0.92), percent_range(None, 1)) == ("81–92", "–")
    assert [duration(x) for x in (4.21, 151, 3720)] == [
        f"4.2{SPACE}s",
        f"2{SPACE}min 31{SPACE}s",
        f"1{SPACE}h 2{SPACE}min",
    ]


def test_an_alarm_is_counted_in_the_verdict_and_shown_with_its_pictures_and_its_remedy():
    picture = encode(torch.zeros(3, 8, 8))
    raised = Raised("mode collapse", 5, "they keep 40 %", "more kl_weight", [("a cat", picture, picture)])
    quiet, loud = content(), content(alarms=[raised], alarm_command="rlhf-images label --alarm runs/demo/tuned")
    assert verdict(quiet).outcome == "better"
    assert verdict(loud).outcome == "mixed"
    assert "No alarm came up" in Elements(page(quiet)).text
    told = Elements(page(loud))
    for words in ("mode collapse (step 5)", "they keep 40 %", "more kl_weight", "label --alarm runs/demo/tuned"):
        assert words in told.text
    assert {"base: a cat", "step 5: a cat"} <= set(told.values("alt"))
    assert "runaway" in Elements(page(quiet)).text  # what was looked for in vain is named


def test_what_another_guidance_draws_is_told_beside_the_usual():
    scores = {"base": {"reward": 0.1, "utility": None}, "tuned": {"reward": 0.52, "utility": 1.25}}
    told = content(run={"config": {"generator": {"guidance": 1.0}}})
    told = replace(told, summary={**told.summary, "other_guidance": {"guidance": 4.5, **scores}})
    (note,) = [notice.text for notice in verdict(told).notices if "guidance" in notice.text]
    assert note == "With guidance 4.50 instead of 1.00, base to tuned: reward 0.100 to 0.520, utility – to 1.25."
    assert note in page(told)
