"""The remote reward against an honest server, and against one that does everything wrong: never a made-up score."""

import base64
import dataclasses
import json
import random
import re
import socket
import subprocess
import sys
from http.client import HTTPConnection
from types import SimpleNamespace

import pytest
import torch
from reward_server_for_tests import BEHAVIOURS, SPOILS_ONE, reward_server, served

import reward_models
from reward_models.remote import TOKEN, Remote
from reward_models.serve import MAX_BODY, serve_reward
from reward_models.web import Service, printable
from rlhf_images.data import decode, encode
from rlhf_images.errors import BadInput
from rlhf_images.reward import Reward, Scores, scores_of

PROMPTS = [f"picture {i}" for i in range(8)]
PATIENT = 60.0
"""Seconds for an answer that comes: long enough for any machine."""


@pytest.fixture
def images() -> torch.Tensor:
    """Eight pictures of whole bytes, each with a brightness of its own."""
    levels = torch.linspace(0.1, 0.9, 8)[:, None, None, None]
    noise = torch.rand(8, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return (255 * (levels + 0.1 * noise)).round() / 255


def client(address: str, timeout: float = PATIENT, attempts: int = 2) -> Remote:
    found = reward_models.load(f"remote@{address}?timeout={PATIENT}")
    found.service = dataclasses.replace(found.service, timeout=timeout, attempts=attempts, pause=0.001)
    return found


def assert_never_wrong(scores: Scores, images: torch.Tensor) -> None:
    """Right where valid; where not, no number at all."""
    truth = images.mean((1, 2, 3))
    torch.testing.assert_close(scores.mean[scores.valid], truth[scores.valid])
    assert scores.mean[~scores.valid].isnan().all()


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_whatever_a_server_does_no_score_is_made_up(images, name):
    with reward_server(lambda _: name) as (address, script):
        remote = client(address, timeout=0.3 if name in ("hang", "slow") else PATIENT)
        scores = scores_of(remote, images, PROMPTS, 8)
        assert script.elsewhere == 0
    assert_never_wrong(scores, images)
    expected = {"right": 8, "out of order": 8, **dict.fromkeys(SPOILS_ONE, 6)}.get(name, 0)
    assert int(scores.valid.sum()) == expected


@pytest.mark.parametrize("name", [name for name in BEHAVIOURS if name not in ("hang", "slow")])
def test_what_goes_wrong_once_is_asked_again(images, name):
    with reward_server(lambda number: name if number < 2 else "right") as (address, _):
        scores = scores_of(client(address, attempts=4), images, PROMPTS, 8)
    assert_never_wrong(scores, images)
    given_up = name in ("redirect", "other model")  # that is a mistake in the set-up, and not a passing one
    assert bool(scores.valid.all()) != given_up


def test_a_group_is_asked_as_a_whole(images):
    """A reward that compares pictures must see the same ones again, and half of its answer is none."""
    with reward_server(lambda n: "too few" if n == 0 else "right", groupwise=True) as (address, script):
        remote = client(address)
        assert remote.can.groupwise
        assert remote.can.remote
        scores = scores_of(remote, images, PROMPTS, 2, [0] * 8)
        assert script.asked == 2
    assert scores.valid.all()
    with reward_server(lambda _: "too few", groupwise=True) as (address, _):
        assert not scores_of(client(address), images, PROMPTS, 2, [0] * 8).valid.any()


def test_a_server_that_is_gone_is_not_asked_patiently_again_and_again(images):
    with reward_server(lambda _: "500") as (address, script):
        remote = client(address, attempts=3)
        for _ in range(5):
            remote.score(images=images[:4], prompts=PROMPTS[:4])
        assert script.asked == 3 + 4
        script.plan = lambda number: "right"
        assert remote.score(images=images, prompts=PROMPTS).valid.all()
        script.plan = lambda number: "500"
        before = script.asked
        remote.score(images=images[:4], prompts=PROMPTS[:4])
        assert script.asked == before + 3  # it had come back: patience is back too
    assert not remote.score(images=images, prompts=PROMPTS).valid.any()  # nobody listens there any more


def test_pauses_double_and_differ(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("reward_models.web.time", SimpleNamespace(sleep=waited.append))
    service = Service.at("http://127.0.0.1:1?attempts=12", TOKEN)
    random.seed(0)
    for _ in range(200):
        assert list(service.tries()) == list(range(12))
    for number in range(11):
        some = torch.tensor(waited[number::11])
        usual = 0.25 * 2**number
        assert some.max() <= min(30, 1.5 * usual)
        assert some.min() >= min(30, 0.5 * usual)
        assert usual >= 60 or some.unique().numel() > 20
    assert list(service.tries(1)) == [0]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:8720", "no address"),
        ("ftp://127.0.0.1", "no address"),
        ("http://", "no address"),
        ("http://127.0.0.1:99999", "no address"),
        ("http://[::1", "no address"),
        ("http://127.0.0.1:1#x", "no address"),
        ("http://me:secret@127.0.0.1:1", "no token or password"),
        ("http://127.0.0.1:1?token=secret", "no token or password"),
        ("http://127.0.0.1:1?timeout=0", "timeout=0 is no number"),
        ("http://127.0.0.1:1?timeout=nan", "timeout=nan is no number"),
        ("http://127.0.0.1:1?attempts=1.5", "attempts=1.5 is no number"),
        ("http://127.0.0.1:1?atempts=2", "takes timeout and attempts"),
        ("http://192.0.2.7:8720", "set its token"),
        ("http://127.0.0.1:1?attempts=1", "serve-reward MODEL"),
    ],
)
def test_an_address_that_will_not_do_is_refused_in_one_line(url, says, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(BadInput) as refusal:
        reward_models.load(f"remote@{url}")
    assert says in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_a_stranger_says_cannot_steer_a_terminal():
    assert printable("a\x1b[2Jb\r\n  c\u202e") == "a [2Jb c"
    assert len(printable("x" * 5000)) == 300


class Doubtful(Reward):
    """Brightness with doubts and a part; it fails on pictures that are nearly white."""

    can = dataclasses.replace(Reward.can, uncertainty=True)
    reference = torch.tensor([0.25, 0.5])
    log_odds = True

    def score(self, *, images, prompts):
        mean = images.mean((1, 2, 3))
        mean = torch.where(mean > 0.85, torch.nan, mean)
        length = torch.tensor([float(len(prompt)) for prompt in prompts])
        return Scores.of(mean, images.flatten(1).std(1), {"length": length})


class Broken(Reward):
    def score(self, *, images, prompts):
        raise RuntimeError("secrets of the server")


def test_everything_a_reward_says_comes_through(images):
    with served(Doubtful()) as address:
        remote = client(address)
        assert remote.can == dataclasses.replace(Doubtful.can, remote=True)
        assert torch.equal(remote.reference, Doubtful.reference)
        assert torch.equal(remote.preferred(torch.tensor([0.3])), Doubtful().preferred(torch.tensor([0.3])))
        assert remote.percentiles(torch.tensor([0.3])).tolist() == [0.5]
        far, near = (scores_of(reward, images, PROMPTS, 8) for reward in (remote, Doubtful()))
        unlike = client(address)
    assert 0 < int((~near.valid).sum()) < 8
    assert torch.equal(far.valid, near.valid)
    assert torch.equal(far.mean[near.valid], near.mean[near.valid])
    assert torch.equal(far.std[near.valid], near.std[near.valid])
    assert torch.equal(far.components["length"][near.valid], near.components["length"][near.valid])
    assert remote.id == unlike.id != Doubtful().id


def test_pictures_leave_as_bytes(images):
    """Eight bits a channel is what every picture has that was ever written to a file."""
    odd = (images + 0.3 / 255).clamp(0, 1)
    with served(Doubtful()) as address:
        far = client(address).score(images=odd, prompts=PROMPTS)
    seen = torch.stack([decode(encode(image)) for image in odd])
    torch.testing.assert_close(far.mean[far.valid], seen.mean((1, 2, 3))[far.valid])


def test_a_failure_inside_is_a_failure_outside_and_tells_no_secret(images, capsys):
    question = {"pictures": [{"id": "a", "prompt": "x", "png": base64.b64encode(encode(images[0])).decode()}]}
    with served(Broken()) as address:
        scores = client(address).score(images=images, prompts=PROMPTS)
        answer = json.dumps(Service.at(address, TOKEN).ask("/v1/score", question))
    assert not scores.valid.any()
    assert "secrets of the server" in capsys.readouterr().out  # which is where it runs
    assert "secrets" not in answer
    assert '"valid": false' in answer


def test_a_token_is_asked_for_and_shown(images, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with served(Doubtful(), "a-token-that-nobody-guesses") as address:
        with pytest.raises(BadInput, match="status 401"):
            client(address)
        monkeypatch.setenv(TOKEN, "a-token-that-nobody-guessed")
        with pytest.raises(BadInput, match="status 401"):
            client(address)
        monkeypatch.setenv(TOKEN, "a-token-that-nobody-guesses")
        remote = client(address)
        assert remote.score(images=images, prompts=PROMPTS).valid.any()
        assert "guesses" not in f"{remote.service!r} {remote.service} {remote.id}"


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({}, 400),
        ([], 400),
        ({"pictures": []}, 400),
        ({"pictures": [{"id": "a", "prompt": "x"}]}, 400),
        ({"pictures": [{"id": "a", "prompt": "x", "png": "*"}]}, 400),
        ({"pictures": [{"id": 1, "prompt": "x", "png": ""}]}, 400),
        ({"pictures": [{"id": "\ud800", "prompt": "x", "png": ""}]}, 400),
        ({"pictures": [{"id": "a", "prompt": "\ud800", "png": ""}]}, 400),
        ({"pictures": [{"id": "a", "prompt": "x" * 20_001, "png": ""}]}, 400),
        ({"pictures": 2 * [{"id": "a", "prompt": "x", "png": ""}]}, 400),
        ({"pictures": [{"id": str(i), "prompt": "x", "png": ""} for i in range(1025)]}, 400),
        ({"model": "another", "pictures": []}, 409),
    ],
)
def test_a_question_that_is_none_is_refused(question, status):
    with served(Doubtful()) as address:
        service = Service.at(address, TOKEN)
        with pytest.raises(Exception, match=f"status {status}"):
            service.ask("/v1/score", question)
        assert service.ask("/v1/model")["can"]["uncertainty"]


def test_a_question_that_is_too_large_is_refused_before_it_is_read():
    with served(Doubtful()) as address:
        asking = HTTPConnection(address.removeprefix("http://"), timeout=PATIENT)
        headers = {"content-type": "application/json", "content-length": str(MAX_BODY + 1)}
        asking.request("POST", "/v1/score", b"{", headers)
        assert asking.getresponse().status == 413
        asking.close()


def test_a_picture_that_is_none_has_no_score_and_the_others_have():
    good = encode(torch.full((3, 4, 4), 0.2))
    rows = [{"id": str(i), "prompt": "x", "png": base64.b64encode(png).decode()} for i, png in enumerate([b"no", good])]
    with served(Doubtful()) as address:
        answer = Service.at(address, TOKEN).ask("/v1/score", {"pictures": rows})
    bad, right = answer["scores"]
    assert (bad["id"], bad["valid"]) == ("0", False)
    assert "not a picture" in bad["error"]
    assert "mean" not in bad
    assert (right["id"], right["valid"], right["mean"]) == ("1", True, pytest.approx(0.2, abs=1e-6))


def test_served_to_others_it_names_an_address_that_they_can_use(monkeypatch, capsys):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    serve_reward(reward_models.load("brightness"), "brightness", host="0.0.0.0", port=0, token=None)
    assert f"reward: remote@http://{socket.gethostname()}:" in capsys.readouterr().out


def test_the_command_serves_in_a_process_of_its_own(images):
    command = [sys.executable, "-c", "from rlhf_images.cli import main; main()", "serve-reward", "brightness"]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"remote@(\S+)", process.stdout.readline())[1]
            far = client(address).score(images=images, prompts=PROMPTS)
        finally:
            process.terminate()
        assert process.wait(30) is not None
    near = reward_models.load("brightness").score(images=images, prompts=PROMPTS)
    torch.testing.assert_close(far.mean, near.mean)
