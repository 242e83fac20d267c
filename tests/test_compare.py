"""Blind comparisons: pictures that belong together meet, and nothing but the manifest knows whose they are."""

import json
import shutil
from pathlib import Path

import pytest
import test_report
import torch

from rlhf_images.cli import run
from rlhf_images.compare import CompareConfig, beside, compare
from rlhf_images.config import plain
from rlhf_images.errors import BadInput
from rlhf_images.evaluator import EvaluationConfig
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generate import GenerateConfig, generate
from rlhf_images.generators import Generator, GeneratorConfig
from rlhf_images.generators.lora import LoraConfig, load_trained, make_trainable, save_trained
from rlhf_images.generators.tiny import TinyConfig, build
from rlhf_images.preferences import Event, Pairs
from rlhf_images.preferences.assignment import Assignment
from rlhf_images.preferences.summary import summarise

PROMPTS = ("a cat", "a dog", "a fox")
LORA = LoraConfig(rank=2, alpha=2)


def settings(path: Path) -> GeneratorConfig:
    return GeneratorConfig(str(path), steps=2, call={"max_sequence_length": 4})


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two pipelines, two folders of their pictures of the same prompts and seed, and a finetune run."""
    root = tmp_path_factory.mktemp("runs")
    sizes = TinyConfig(layers=1, heads=1, channels=(8, 8), text_width=16, text_tokens=4)
    for seed, name in enumerate(("plain", "other")):
        build(sizes, 8, list(PROMPTS), seed).save_pretrained(root / name)
        generate(
            GenerateConfig(settings(root / name), PROMPTS, str(root / f"{name}-pictures"), pairs_per_prompt=2, seed=5)
        )
    generate(
        GenerateConfig(settings(root / "plain"), PROMPTS[:2], str(root / "later-pictures"), pairs_per_prompt=2, seed=6)
    )
    generator = Generator.load(settings(root / "plain"))
    make_trainable(generator, LORA, 0)
    for parameter in generator.parameters.values():
        parameter.data += 0.3
    save_trained(generator, LORA, root / "tuned")
    evaluation = EvaluationConfig(PROMPTS, seed=7)
    config = FinetuneConfig(
        generator=settings(root / "plain"),
        prompts=PROMPTS,
        reward="bold",
        out=str(root / "tuned"),
        evaluation=evaluation,
        lora=LORA,
    )
    record = {"stage": "finetune", "config": plain(config), "seconds": 1.0, "finished": True}
    (root / "tuned" / "run.json").write_text(json.dumps(record))
    return root


def compared(runs: Path, before: str, after: str, out: Path, **more) -> Pairs:
    return Pairs(compare(CompareConfig(str(runs / before), str(runs / after), str(out), **more)))


def test_two_folders_meet_by_prompt_seed_and_index(runs, tmp_path):
    pairs = compared(runs, "plain-pictures", "other-pictures", tmp_path / "out", same_seed=True)
    assert len(pairs.pairs) == len(PROMPTS) * 4
    for pair in pairs.pairs:
        left, right = pairs.pictures[pair.left], pairs.pictures[pair.right]
        assert (left.prompt, left.seed, left.index) == (right.prompt, right.seed, right.index)
        assert (left.source, right.source) == (str(runs / "plain-pictures"), str(runs / "other-pictures"))
        pairs.image(pair.left), pairs.image(pair.right)


def test_a_tuned_generator_draws_the_pool_of_the_next_round(runs, tmp_path):
    tuned = str(runs / "tuned")
    generate(
        GenerateConfig(
            settings(runs / "plain"), PROMPTS, str(tmp_path / "pool"), pairs_per_prompt=2, tuned=tuned, seed=5
        )
    )
    pool, plain_ones = Pairs(tmp_path / "pool"), Pairs(runs / "plain-pictures")
    assert {picture.source for picture in pool.pictures.values()} == {tuned}
    assert not pool.pictures.keys() & plain_ones.pictures.keys()
    drawn = compared(runs, "plain-pictures", "tuned", tmp_path / "same", same_seed=True)
    assert {pair.right for pair in drawn.pairs} <= pool.pictures.keys()  # the same as `compare` draws with its weights


def test_weights_that_are_not_there_or_do_not_fit_are_one_line(runs, tmp_path):
    sizes = TinyConfig(layers=1, heads=2, channels=(8, 8), text_width=16, text_tokens=4)
    build(sizes, 8, list(PROMPTS), 0).save_pretrained(tmp_path / "wider")
    generator = Generator.load(settings(tmp_path / "wider"))
    with pytest.raises(BadInput, match=r"tuned: cannot be put on .*wider") as raised:
        load_trained(generator, runs / "tuned")
    assert "\n" not in str(raised.value)
    with pytest.raises(BadInput, match=r"no tuned weights in it; give .*tuned=RUN"):
        load_trained(generator, tmp_path)
    shutil.copytree(runs / "tuned", tmp_path / "round/tuned")
    load_trained(Generator.load(settings(runs / "plain")), tmp_path / "round")
    shutil.copytree(runs / "tuned", tmp_path / "round/again")
    with pytest.raises(BadInput, match="tuned weights in 2 of its folders"):
        load_trained(generator, tmp_path / "round")


def test_folders_of_other_seeds_meet_by_prompt_alone(runs, tmp_path, capsys):
    with pytest.raises(BadInput, match="without --same-seed the prompt is enough"):
        compared(runs, "plain-pictures", "later-pictures", tmp_path / "refused", same_seed=True)
    assert not (tmp_path / "refused").exists()
    pairs = compared(runs, "plain-pictures", "later-pictures", tmp_path / "out")
    assert len(pairs.pairs) == 8
    assert {pair.prompt for pair in pairs.pairs} == set(PROMPTS[:2])
    assert "8 pictures have a counterpart, of 12 and 8" in capsys.readouterr().out


@pytest.mark.parametrize("same_seed", [True, False])
def test_a_pipeline_meets_its_tuned_self_on_numbers_that_training_never_drew(runs, tmp_path, same_seed):
    pairs = compared(runs, "plain", "tuned", tmp_path / "out", same_seed=same_seed, pairs=7)
    assert len(pairs.pairs) == 7
    counts = [sum(pair.prompt == prompt for pair in pairs.pairs) for prompt in PROMPTS]
    assert sorted(counts) == [2, 2, 3]
    for pair in pairs.pairs:
        left, right = pairs.pictures[pair.left], pairs.pictures[pair.right]
        assert (left.seed, right.seed) == (7, 7 if same_seed else 8)
        assert left.settings["steps"] == right.settings["steps"] == 2  # as the run was, not as diffusers would
    near = [(pairs.image(pair.left) - pairs.image(pair.right)).abs().mean().item() for pair in pairs.pairs]
    assert all(distance > 0 for distance in near)


def test_the_pictures_are_those_that_the_weights_draw(runs, tmp_path):
    pairs = compared(runs, "plain-pictures", "plain", tmp_path / "out", pairs=5)
    assert len(pairs.pairs) == 5
    with pytest.raises(BadInput, match="drew the same pictures"):
        compared(runs, "plain-pictures", "plain", tmp_path / "same", same_seed=True)
    shutil.copytree(runs / "plain", runs / "copy", dirs_exist_ok=True)
    with pytest.raises(BadInput, match="drew the same pictures"):
        compared(runs, "copy", "plain-pictures", tmp_path / "same too", same_seed=True)


def test_two_pipelines_need_prompts(runs, tmp_path):
    with pytest.raises(BadInput, match="give --prompts"):
        compared(runs, "plain", "other", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_prompts_that_would_not_be_drawn_are_refused(runs, tmp_path):
    with pytest.raises(BadInput, match=r"--prompts digits: .*plain-pictures has its pictures"):
        compared(runs, "tuned", "plain-pictures", tmp_path / "refused", prompts="digits")
    assert not (tmp_path / "refused").exists()


def test_nothing_but_the_manifest_tells_whose_a_picture_is(runs, tmp_path):
    pairs = compared(runs, "plain", "tuned", tmp_path / "out", same_seed=True, pairs=12)
    shown = [Assignment(pairs).shown("ann", pair.pair) for pair in pairs.pairs]
    visible = repr(shown).encode() + b"".join(path.read_bytes() for path in (tmp_path / "out/images").iterdir())
    visible += (tmp_path / "out/pairs.jsonl").read_bytes()
    assert b"tuned" not in visible
    assert b"plain" not in visible
    on_left = [pairs.pictures[one.left].source for one in shown]
    assert 0 < sum(source.endswith("tuned") for source in on_left) < 12


def test_votes_are_of_the_runs_whatever_the_side(runs, tmp_path):
    pairs = compared(runs, "plain", "tuned", tmp_path / "out", same_seed=True, pairs=12)
    assignment = Assignment(pairs, repeats=0)
    for _ in range(12):
        (one,) = assignment.next("ann", 1)
        better = "left" if pairs.pictures[one.left].source.endswith("tuned") else "right"
        assignment.record("ann", [{"id": one.pair, "type": "vote", "pair": one.pair, "choice": better}])
    found = summarise(pairs)
    assert found.comparison.win_rate.value == 1
    assert found.comparison.after == str(runs / "tuned")
    assert found.annotators[0].left_share.value < 1


def test_the_same_command_goes_on_and_another_is_refused(runs, tmp_path):
    pairs = compared(runs, "plain", "tuned", tmp_path / "out", pairs=4)
    pairs.store.add([Event("i", "vote", pairs.pairs[0].pair, "ann", "left")])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert len(compared(runs, "plain", "tuned", tmp_path / "out", pairs=4).labelled()) == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(BadInput, match="already holds another run"):
        compared(runs, "plain", "tuned", tmp_path / "out", pairs=5)


def test_a_run_tuned_anew_is_not_the_one_that_was_compared(runs, tmp_path):
    """Wherever it lies: here one level below the folder that is named. A look at it from there loads its weights."""
    tuned = shutil.copytree(runs / "tuned", tmp_path / "round/tuned")
    config = CompareConfig(str(runs / "plain-pictures"), str(tmp_path / "round"), str(tmp_path / "out"), pairs=2)
    assert compare(config) == compare(config)
    record = json.loads((tuned / "run.json").read_text())
    (tuned / "run.json").write_text(json.dumps({**record, "seconds": 2.0}))
    with pytest.raises(BadInput, match=r"what lies in .*round/tuned"):
        compare(config)


@pytest.mark.parametrize(("before", "after"), [("plain", "plain"), ("gone", "plain"), ("plain", "nothing")])
def test_what_cannot_be_compared_is_one_line(runs, tmp_path, before, after):
    (runs / "nothing").mkdir(exist_ok=True)
    with pytest.raises(BadInput) as raised:
        compared(runs, before, after, tmp_path / "out", prompts="digits")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_a_picture_that_is_not_finite_ends_it(runs, tmp_path, monkeypatch):
    shutil.copytree(runs / "plain", tmp_path / "broken")
    pipe = Generator.load(settings(tmp_path / "broken")).pipe
    for parameter in pipe.vae.parameters():
        parameter.data.fill_(torch.nan)
    pipe.save_pretrained(tmp_path / "broken")
    line = ["label", str(tmp_path / "out"), "--compare", str(runs / "plain-pictures"), str(tmp_path / "broken")]
    assert run([*line, "--stats"]) == 3


def test_on_the_command_line(runs, tmp_path, capsys):
    line = ["label", "--compare", str(runs / "plain"), str(runs / "tuned"), "--same-seed", "--pairs", "3", "--stats"]
    assert run(line) == 0
    out = Path(beside(str(runs / "plain"), str(runs / "tuned")))
    assert out == runs / "tuned-against-plain"
    assert "0 votes on 0 of 3 pairs" in capsys.readouterr().out
    assert run(["label", str(out), "--stats"]) == 0
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which pairs?"),
        (["x", "--same-seed"], "--same-seed: only together with --compare"),
        (["x", "--pairs", "3"], "--pairs: only together with --compare"),
        (["x", "--noise", "0.1"], "--noise: only together with --scripted"),
        (["x", "--seed", "0"], "--seed: only together with --scripted"),
        (["x", "--scripted", "bold", "--stats"], "--stats: does nothing beside --scripted"),
        (["x", "--scripted", "bold", "--annotator", "ann"], "--annotator: does nothing beside --scripted"),
        (["x", "--scripted", "bold", "--doubts-of", "y", "--by", "disagreement"], "--doubts-of: does nothing beside"),
        (["x", "--stats", "--port", "0"], "--port: does nothing beside --stats"),
        (["--alarm", "x", "--compare", "y", "z"], "--compare: does nothing beside --alarm"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words, said, capsys):
    assert run(["label", *words]) == 2
    assert said in capsys.readouterr().err


def test_votes_reach_the_verdict_of_the_run_by_themselves(runs, tmp_path):
    """Beside the run, blind, of people only: a script's votes and another comparison's do not count."""
    from rlhf_images.report.verdict import verdict
    from rlhf_images.report.votes import votes_on

    shutil.copytree(runs / "tuned", tmp_path / "tuned")
    base, run_folder = str(runs / "plain"), tmp_path / "tuned"
    assert votes_on(run_folder, base) == []
    pairs = Pairs(compare(CompareConfig(base, str(run_folder), str(tmp_path / "blind"), pairs=6)))
    assert votes_on(run_folder, base) == []
    for number, pair in enumerate(pairs.pairs):
        pairs.store.add([Event(f"a{number}", "vote", pair.pair, "ann", "right" if number < 4 else "tie")])
        pairs.store.add([Event(f"s{number}", "vote", pair.pair, "scripted:bold", "left")])
    (votes,) = votes_on(run_folder, base)
    assert (votes.before, votes.votes, votes.prompts, votes.people) == ("base", 6, 3, 1)
    assert votes.value == pytest.approx(5 / 6)
    assert votes_on(run_folder, str(runs / "other")) == []

    given = test_report.content(votes=[votes], rate=0.1, ci=(0.05, 0.2))
    found = verdict(given)
    assert found.sentence.startswith(
        "Preferred over the base in 83\u00a0% of 6 blind votes by one person (95\u00a0% CI "
    )
    assert "clustered by 3 prompts" in found.sentence
    assert found.outcome == ("better" if votes.low > 0.5 else "unclear")  # whatever the judge says
    assert found.also.startswith("Preferred over the base in 10\u00a0% of 240 pairs by the judge")
