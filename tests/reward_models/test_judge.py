"""Judges: what they ask, whom, and that a contradiction, a silence or another rubric never passes for an answer."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_vlms
import torch
from chat_server_for_tests import answer, chat_server
from conftest import write_pairs
from safetensors.torch import load_file, save_file
from tiny_vlms import Scripted

import reward_models
from reward_models.chat import LocalChat, Question
from reward_models.judge import Checklist, JudgeConfig, Pairwise, PairwiseJudge, YesJudge, YesNo, log_odds
from reward_models.served_chat import KEY, ServedChat
from reward_models.train import TrainRewardConfig, train_reward
from reward_models.train_checklist import ChecklistConfig
from reward_models.vision_language import Base
from rlhf_images import config as configs
from rlhf_images.data import pil
from rlhf_images.errors import BadInput
from rlhf_images.reward import scores_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def vlms(tmp_path_factory):
    return {name: str(write(tmp_path_factory.mktemp(name))) for name, write in tiny_vlms.VLMS.items()}


@pytest.fixture
def images():
    return torch.rand(4, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def written(folder: Path, **config) -> str:
    """The specification of a judge whose file is JSON, which is YAML too."""
    path = folder / "judge.yaml"
    path.write_text(json.dumps(config))
    return f"judge@{path}"


def light(picture) -> float:
    """The mean grey, 0 to 1."""
    return float(np.asarray(picture.convert("L"), dtype=np.float64).mean()) / 255


@pytest.mark.parametrize("name", tiny_vlms.VLMS)
def test_a_local_models_chance_is_that_of_its_next_word(vlms, images, name):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(vlms[name])
    model = AutoModelForImageTextToText.from_pretrained(vlms[name]).eval()
    text = "Does the picture show good?"
    content = [{"type": "image", "image": pil(images[0])}, {"type": "text", "text": text}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        p = model(**inputs).logits[0, -1].softmax(0)
    of = processor.tokenizer.convert_tokens_to_ids
    yes = sum(p[of(word)] for word in ("yes", "Yes", "Ġyes", "ĠYes"))
    no = sum(p[of(word)] for word in ("no", "No", "Ġno", "ĠNo"))
    found = LocalChat(vlms[name]).chances([Question((images[0],), text)], ("yes", "no"))
    torch.testing.assert_close(found[0, 0], yes / (yes + no), rtol=1e-4, atol=1e-6)
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", tiny_vlms.VLMS)
def test_a_judge_here_depends_on_picture_prompt_and_nothing_else(vlms, images, tmp_path, name):
    judge = reward_models.load(written(tmp_path, model=vlms[name], ask={"name": "question"}))
    prompts = ["a cat", "a cat", "a longer prompt", "a cat"]
    together = judge.score(images=images, prompts=prompts).mean
    alone = [judge.score(images=images[i : i + 1], prompts=[prompts[i]]).mean[0] for i in range(4)]
    torch.testing.assert_close(torch.stack(alone), together, rtol=1e-5, atol=1e-6)
    assert together.unique().numel() == 4
    other = judge.score(images=images[:1], prompts=["a dog"]).mean
    assert (other - together[0]).abs() > 1e-6
    with_nan = images.clone()
    with_nan[2, 0, 0, 0] = torch.nan
    assert scores_of(judge, with_nan, prompts, 4).valid.tolist() == [True, True, False, True]


@pytest.mark.parametrize(("name", "word"), [("gemma3", "<image_soft_token>"), ("qwen3_5", "<|image_pad|>")])
def test_a_prompt_that_speaks_as_the_model_does_fails_alone(vlms, images, name, word):
    judge = YesJudge(LocalChat(vlms[name]), YesNo())
    usual = scores_of(judge, images, ["a cat"] * 4, 4)
    for said in (word, "a cat<eos>", "<|user|>"):
        scores = scores_of(judge, images, ["a cat", f"a {said}", "a cat", "a cat"], 4)
        assert scores.valid.tolist() == [True, False, True, True]
        torch.testing.assert_close(scores.mean[[0, 2, 3]], usual.mean[[0, 2, 3]], rtol=1e-5, atol=1e-6)


def test_who_judges_is_the_model_and_every_word_of_the_rubric(vlms, tmp_path):
    def of(model="gemma3", **ask):
        return reward_models.load(written(tmp_path, model=vlms[model], ask={"name": "question", **ask})).id

    ids = [of(), of("qwen3_5"), of(question="Is it good? yes or no"), of(question="Is it good?  yes or no")]
    assert len(set(ids)) == 4
    assert of() == ids[0]
    lists = [
        {"name": "checklist", "questions": {"a": "x"}},
        {"name": "checklist", "questions": {"a": "x"}, "weights": {"a": 1.0}},
        {"name": "checklist", "questions": {"b": "x"}},
    ]
    assert len({of(**ask) for ask in lists}) == 3


def brighter(levels, text):
    """P(A) of a judge who sees which is brighter, and is not moved by places."""
    return 1 / (1 + math.exp(-8 * (levels[0] - levels[1])))


def test_a_pairwise_judge_is_asked_in_both_orders(images):
    chat = Scripted(brighter)
    judge = PairwiseJudge(chat, Pairwise(question="which, for {prompt}?"))
    left, right = images[:2], images[2:]
    scores = judge.prefer(left=left, right=right, prompts=["x", "y"])
    expected = torch.sigmoid(8 * (left.mean((1, 2, 3)) - right.mean((1, 2, 3))))
    torch.testing.assert_close(scores.mean, expected)
    torch.testing.assert_close(scores.std, torch.zeros(2), atol=1e-6, rtol=0)
    assert len(chat.asked) == 4
    assert chat.asked[0] == ("which, for x?", ("A", "B"))


def test_one_who_always_takes_the_first_says_nothing(images):
    judge = PairwiseJudge(Scripted(lambda levels, text: 0.9), Pairwise())
    scores = judge.prefer(left=images[:2], right=images[2:], prompts=["x"] * 2)
    torch.testing.assert_close(scores.mean, torch.full((2,), 0.5))
    torch.testing.assert_close(scores.std, torch.full((2,), 0.4))
    torch.testing.assert_close(
        scores.components["left first"] - scores.components["right first"], torch.full((2,), 0.8)
    )
    group = judge.score(images=images, prompts=["x"] * 4)
    torch.testing.assert_close(group.mean, torch.full((4,), 0.5))
    torch.testing.assert_close(group.std, torch.full((4,), 0.4 / 3**0.5))


def test_a_pictures_score_is_how_often_it_is_preferred_in_its_group(images):
    chat = Scripted(brighter)
    judge = PairwiseJudge(chat, Pairwise())
    broken = images.clone()
    broken[1, 0, 0, 0] = torch.nan
    scores = scores_of(judge, broken, ["x"] * 4, 2, [0] * 4)
    level = images.mean((1, 2, 3))
    known = [0, 2, 3]
    for i in known:
        expected = torch.stack([torch.sigmoid(8 * (level[i] - level[j])) for j in known if j != i]).mean()
        torch.testing.assert_close(scores.mean[i], expected)
    assert scores.valid.tolist() == [True, False, True, True]
    assert len(chat.asked) == 6
    assert not judge.score(images=images[:1], prompts=["x"]).valid.any()


@pytest.mark.parametrize("name", tiny_vlms.VLMS)
def test_two_pictures_in_one_question(vlms, images, name):
    judge = PairwiseJudge(LocalChat(vlms[name]), Pairwise())
    there = judge.prefer(left=images[:2], right=images[2:], prompts=["x"] * 2)
    back = judge.prefer(left=images[2:], right=images[:2], prompts=["x"] * 2)
    torch.testing.assert_close(there.mean + back.mean, torch.ones(2))
    torch.testing.assert_close(there.std, back.std)
    assert (there.std > 0).all()


CHECKS = {"bright": "Is it bright? yes or no", "fits": "Is it {prompt}? yes or no"}


def test_a_checklist_is_the_mean_of_its_answers_or_their_weighted_log_odds(images):
    def first(levels, text):
        return min(0.9999, levels[0]) if "bright" in text else 0.25

    plain = reward_models.judge.ChecklistJudge(Scripted(first), Checklist(questions=CHECKS))
    scores = plain.score(images=images, prompts=["a cat"] * 4)
    level = images.mean((1, 2, 3))
    torch.testing.assert_close(scores.components["bright"], level)
    torch.testing.assert_close(scores.mean, (level + 0.25) / 2)
    assert plain.chat.asked[1][0] == "Is it a cat? yes or no"
    weighted = Checklist(questions=CHECKS, weights={"bright": 2.0, "fits": -1.0})
    judged = reward_models.judge.ChecklistJudge(Scripted(first), weighted).score(images=images, prompts=["x"] * 4)
    torch.testing.assert_close(judged.mean, 2 * torch.logit(level) - torch.logit(torch.tensor(0.25)))
    torch.testing.assert_close(log_odds(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-7.0, 0.0, 7.0]))


def test_a_served_model_is_shown_the_picture_and_believed_within_bounds(images, monkeypatch):
    def reply(pictures, text, asked):
        chance = light(pictures[0])
        return {
            " Yes": math.log(chance),
            "No": math.log(0.9 * (1 - chance)),
            " no": math.log(0.1 * (1 - chance)),
            "x": -9.0,
        }

    monkeypatch.setenv(KEY, "a-key-of-mine")
    with chat_server(reply) as (url, seen):
        judge = YesJudge(ServedChat(url, "tiny"), YesNo(question="Is it {prompt}?"))
        scores = judge.score(images=images, prompts=["bright"] * 4)
    grey = torch.tensor([light(pil(image)) for image in images])
    torch.testing.assert_close(scores.mean, grey)
    assert judge.can.remote
    asked = seen[0]
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer a-key-of-mine")
    assert (asked["model"], asked["max_tokens"], asked["logprobs"], asked["temperature"]) == ("tiny", 1, True, 0)
    assert asked["messages"][0]["content"][-1] == {"type": "text", "text": "Is it bright?"}
    assert "a-key" not in f"{judge.chat.service!r} {judge.id}"


SILENCES = {
    "no logprobs": answer("yes"),
    "other words": {"maybe": -0.1, "perhaps": -2.0},
    "not a number": {"yes": float("nan"), "no": -1.0},
    "more than certain": {"yes": 5.0},
    "text": (200, "<html>yes</html>"),
    "an error": (500, {"error": "yes"}),
    "refused": (401, {"error": "no"}),
    "no choice": (200, {"choices": []}),
    "two choices": (200, {"choices": 2 * answer({"yes": -0.1, "no": -2.4})["choices"]}),
    "more than certain together": {"yes": -0.1, " yes": -0.1, "no": -1.0},
    "too large a number": {"yes": -(10**400), "no": -1.0},
    "a list": (200, ["yes"]),
}


@pytest.mark.parametrize("told", SILENCES.values(), ids=SILENCES)
def test_what_is_no_answer_is_a_failure(images, told, capsys):
    with chat_server(lambda pictures, text, asked: told) as (url, _):
        chat = ServedChat(f"{url}?attempts=2", "tiny")
        chat.service = dataclasses.replace(chat.service, pause=0.001)
        scores = scores_of(YesJudge(chat, YesNo()), images, ["x"] * 4, 4)
    assert not scores.valid.any()
    assert scores.mean.isnan().all()
    assert "no answer to 4 of 4 questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "chance"), [("Yes.", 1.0), ("**No**, it", 0.0), ("yes", 1.0), ("perhaps", None), ("", None)]
)
def test_a_word_alone_is_certain(images, word, chance):
    with chat_server(lambda pictures, text, asked: word) as (url, seen):
        judge = YesJudge(ServedChat(f"{url}?attempts=1", "tiny", "word"), YesNo())
        scores = judge.score(images=images[:1], prompts=["x"])
    assert scores.valid.tolist() == [chance is not None]
    assert chance is None or scores.mean.tolist() == [chance]
    assert "logprobs" not in seen[0]


def test_served_and_here_the_same_model_says_the_same(vlms, images):
    """A real server process on loopback, with the same weights."""
    program = [sys.executable, str(ROOT / "chat_server_for_tests.py"), vlms["gemma3"]]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        far = PairwiseJudge(ServedChat(url, "tiny"), Pairwise())
        served = far.prefer(left=images[:1], right=images[1:2], prompts=["a cat"])
        process.stdin.close()
        assert process.wait(60) == 0
    near = PairwiseJudge(LocalChat(vlms["gemma3"]), Pairwise())
    here = near.prefer(left=images[:1], right=images[1:2], prompts=["a cat"])
    torch.testing.assert_close(served.mean, here.mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(served.std, here.std, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def asked_pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("asked"), 80)


def test_a_checklist_learns_what_its_answers_are_worth(asked_pairs, tmp_path):
    """The voters go by boldness, which shows in the brightness; the other question has nothing to do with it."""

    def reply(pictures, text, asked):
        bright = light(pictures[0])
        chance = 0.05 + 0.9 * bright if "bright" in text else 0.3 + 0.4 * (bright * 1e4 % 1)
        return {"yes": math.log(chance), "no": math.log(1 - chance)}

    checks = {"bright": CHECKS["bright"], "lucky": "Is it lucky?"}
    with chat_server(reply) as (url, _):
        config = JudgeConfig(url, Checklist(questions=checks), served="tiny")
        out = tmp_path / "out"
        train_reward(TrainRewardConfig(str(asked_pairs.folder), str(out), model=ChecklistConfig(config)))
        judge = reward_models.load(str(out))
        card = json.loads((out / "card.json").read_text())
        assert card["held_out_accuracy"] >= 0.8
        assert card["head"]["bright"] > 4 * abs(card["head"]["lucky"])
        assert card["looked_for"] == ["dead head", "position leak"]  # two answers agree by chance
        pair = asked_pairs.pairs[0]
        both = torch.stack([asked_pairs.image(picture) for picture in (pair.left, pair.right)])
        scores = judge.score(images=both, prompts=[pair.prompt] * 2)
        weights = torch.tensor([judge.ask.weights[name] for name in checks])
        expected = log_odds(torch.stack(list(scores.components.values()), 1)) @ weights
        torch.testing.assert_close(scores.mean, expected)
        assert ((judge.preferred(scores.mean) > 0) & (judge.preferred(scores.mean) < 1)).all()
    (out / "reward.json").write_text((out / "reward.json").read_text()[:-40])
    with pytest.raises(BadInput, match="damaged"):
        reward_models.load(str(out))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model": "x", "ask": {"name": "questio"}}, "did you mean 'question'"),
        ({"model": "x", "ask": {"name": "checklist"}}, "needs questions"),
        ({"model": "x", "ask": {"name": "checklist", "questions": {"a": "b"}, "weights": {}}}, "a weight for each"),
        ({"model": "http://127.0.0.1:1", "ask": {"name": "question"}}, "served"),
        ({"model": "x", "served": "y", "ask": {"name": "question"}}, "served"),
        ({"model": "x", "told": "word", "ask": {"name": "question"}}, "gives its chances; leave it out"),
        (
            {"model": "http://127.0.0.1:1", "served": "y", "dtype": "bfloat16", "ask": {"name": "question"}},
            "in the server's own; leave it out",
        ),
        ({"model": "/nowhere", "ask": {"name": "question"}}, "no vision-language model"),
        ({"model": "http://192.0.2.1/v1", "served": "y", "ask": {"name": "question"}}, "another machine"),
        ({"model": "http://127.0.0.1:1/v1?key=3", "served": "y", "ask": {"name": "question"}}, "timeout and attempts"),
    ],
)
def test_a_mistake_is_answered_in_one_line(tmp_path, monkeypatch, config, says):
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(BadInput, match=re.escape(says)) as refusal:
        reward_models.load(written(tmp_path, **config))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("part", ["config.json", "processor_config.json"])
def test_the_code_of_a_models_folder_is_not_run_nor_asked_about(vlms, tmp_path, monkeypatch, part):
    """Whoever answers the question of transformers with yes has run it: it must not be put."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = shutil.copytree(vlms["gemma3"], tmp_path / "model")
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'exploited')!r}).touch()\n")
    told = json.loads((folder / part).read_text())
    told |= {"model_type": "own", "processor_class": "Own", "auto_map": {}}
    told["auto_map"] = dict.fromkeys(("AutoConfig", "AutoProcessor", "AutoModelForImageTextToText"), "own.Own")
    (folder / part).write_text(json.dumps(told))
    for make in (LocalChat, lambda path: Base(path, "float32")):
        with pytest.raises(BadInput):
            make(str(folder))
    assert not (tmp_path / "exploited").exists()


def test_weights_that_are_cut_off_or_missing_are_refused_not_drawn_at_random(vlms, tmp_path):
    folder = shutil.copytree(vlms["gemma3"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    layer = next(name for name in weights if name.endswith("q_proj.weight"))

    def without_a_layer() -> None:
        kept = {name: value for name, value in weights.items() if name != layer}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    for spoil, says in (
        (lambda: (folder / "model.safetensors").write_bytes(whole[:-99]), "SafetensorError"),
        (without_a_layer, "1 of its weights are missing"),
        (lambda: (folder / "config.json").write_text("[]"), "TypeError"),
    ):
        spoil()
        for make in (LocalChat, lambda path: Base(path, "float32")):
            with pytest.raises(BadInput, match=says) as refusal:
                make(str(folder))
            assert "\n" not in str(refusal.value)


def test_answers_that_begin_alike_are_refused(vlms, images):
    with pytest.raises(BadInput, match="same token"):
        LocalChat(vlms["gemma3"]).chances([Question((images[0],), "x")], ("yes", "Yes"))


@pytest.mark.parametrize("name", ["question", "pairwise", "checklist", "served"])
def test_the_shipped_judges_are_valid(name):
    config = configs.load(JudgeConfig, f"judge/{name}.yaml")
    assert (config.served is not None) == (name == "served")


def test_the_shipped_lesson_is_valid():
    assert isinstance(configs.load(TrainRewardConfig, "judge/reward.yaml").model, ChecklistConfig)
