"""What every reward promises: over the whole table, a trained model, mixtures, and a user's own function."""

import io
import json
import math
import sys

import numpy as np
import pytest
import tiny_scorers as tiny
import tiny_vlms
import torch
from conftest import TINY
from PIL import Image
from reward_server_for_tests import served

import reward_models
from reward_models import REWARDS
from reward_models.adapters import Adapters
from reward_models.architecture import new_towers
from reward_models.clip_preference import ClipPreference
from reward_models.judge import Pairwise, PairwiseJudge
from reward_models.vision_language import Base, VisionLanguage
from rlhf_images.data import DIGIT_CAPTIONS, digits, tensor
from rlhf_images.errors import BadInput, RewardFailed
from rlhf_images.pictures import score_pictures
from rlhf_images.reward import FunctionReward, Reward, scores_of

OWN = """
import torch
from rlhf_images.reward import Reward, Scores

def redness(images, prompts):
    return images[:, 0].mean((1, 2))

def too_few(images, prompts):
    return images.mean()

class Own(Reward):
    def __init__(self, sign=1.0):
        self.sign = sign

    def score(self, *, images, prompts):
        return Scores.of(self.sign * images.mean((1, 2, 3)))

instance = Own(-1.0)
number = 3

def factory():
    return Own(2.0)

def bad_factory():
    return 3

def failing_factory():
    raise RuntimeError("no GPU\\nhere")
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    (tmp_path / "my_own_rewards.py").write_text(OWN)
    (tmp_path / "my_broken_rewards.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    yield
    for name in ("my_own_rewards", "my_broken_rewards"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> dict[str, str]:
    return tiny.published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def remote(trained):
    """The trained model, in a server."""
    with served(reward_models.load(str(trained))) as address:
        yield f"remote@{address}"


@pytest.fixture(scope="session")
def remote_in_groups():
    with served(reward_models.load("diversity")) as address:
        yield f"remote@{address}"


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> str:
    """As ``train-reward`` leaves one of the family: a fine-tuned CLIP, with a head."""
    folder = tmp_path_factory.mktemp("clip")
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClipPreference(new_towers(TINY), torch.randn(16, generator=random), torch.linspace(-1, 1, 9)).save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def judge(tmp_path_factory) -> str:
    """A vision-language model on this machine that is asked one question."""
    folder = tiny_vlms.gemma3(tmp_path_factory.mktemp("vlm"))
    (folder / "judge.yaml").write_text(json.dumps({"model": str(folder), "ask": {"name": "question"}}))
    return f"judge@{folder}/judge.yaml"


@pytest.fixture(scope="session")
def vision_language(judge, tmp_path_factory) -> str:
    """As ``train-reward`` leaves one of the family."""
    folder, adapters = tmp_path_factory.mktemp("adapters"), Adapters(2, 4)
    base = Base(judge.partition("@")[2].removesuffix("/judge.yaml"), "float32")
    VisionLanguage(base, base.adapted(adapters), adapters, "{prompt}?").save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def checklist(tmp_path_factory) -> str:
    """As ``train-reward`` leaves one of the family: questions to a model on this machine, each with its worth."""
    folder = tmp_path_factory.mktemp("checklist")
    ask = {"name": "checklist", "questions": {"good": "Is it good?", "fits": "Is it {prompt}?"}}
    asked = {"model": str(tiny_vlms.gemma3(folder)), "ask": {**ask, "weights": {"good": 200.0, "fits": -50.0}}}
    told = {"format": "rlhf-images checklist 1", "judge": asked, "reference": [0.0, 1.0]}
    (folder / "reward.json").write_text(json.dumps(told))
    return str(folder)


OTHERS = [
    "checklist",
    "pairwise judge",
    "vision language",
    "trained",
    "head",
    "clip",
    "remote in groups",
    "function",
    "weighted",
    "weighted in groups",
    "ensemble",
]


@pytest.fixture(params=[*REWARDS, *OTHERS])
def reward(request) -> Reward:
    """Each entry of the table from the specification that a user would write, and what is made of several."""
    specs = {"palette": "palette@#000000,#ff8800", **request.getfixturevalue("published")}
    if request.param.startswith("remote") or request.param in ("checklist", "clip", "judge", "vision language"):
        return reward_models.load(request.getfixturevalue(request.param.replace(" ", "_")))
    if request.param == "pairwise judge":
        chat = tiny_vlms.Scripted(lambda levels, text: 1 / (1 + math.exp(3 * (levels[1] - levels[0]) - 0.5)))
        return PairwiseJudge(chat, Pairwise())
    if request.param == "trained":
        return reward_models.load(str(request.getfixturevalue("trained")))
    if request.param == "head":
        return reward_models.load(str(request.getfixturevalue("trained_head")))
    if request.param == "function":
        request.getfixturevalue("own_file")
        return reward_models.load("my_own_rewards:redness")
    if request.param.startswith("weighted"):
        third = "diversity" if "groups" in request.param else "symmetry"
        mixture = reward_models.load({specs["pickscore"]: 1.0, "sharpness": -0.5, third: 2.0})
        for i, part in enumerate(mixture.unmeasured().values()):
            part.reference = torch.linspace(i, i + 1.5, 7)
        return mixture
    if request.param == "ensemble":
        return reward_models.load([str(request.getfixturevalue("trained")), "brightness", "contrast"])
    return reward_models.load(specs.get(request.param, request.param))


@pytest.fixture
def batch() -> tuple[torch.Tensor, list[str]]:
    """Eight digits in colours of their own: a grey picture has no saturation to have a slope."""
    images, labels = digits(16)
    tint = 0.4 + 0.6 * torch.rand(8, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return 0.02 + 0.96 * images[100:108] * tint, [DIGIT_CAPTIONS[i] for i in labels[100:108]]


def test_one_float_a_picture(reward, batch):
    images, prompts = batch
    scores = reward.score(images=images, prompts=prompts)
    assert scores.mean.shape == scores.valid.shape == (8,)
    assert scores.mean.dtype == torch.float32
    assert scores.valid.dtype == torch.bool
    assert scores.valid.all()
    assert scores.mean.unique().numel() > 1 or isinstance(reward, reward_models.legibility.Legibility)
    assert (scores.std is not None) == reward.can.uncertainty
    assert scores.std is None or (scores.std.shape == (8,) and (scores.std >= 0).all())
    assert all(part.shape == (8,) for part in scores.components.values())


def test_a_posterior_is_the_one_of_its_std(reward, batch):
    images, prompts = batch
    if not reward.can.posterior:
        with pytest.raises(NotImplementedError):
            reward.doubts(images=images, prompts=prompts)
        return
    doubts = reward.doubts(images=images, prompts=prompts)
    std = reward.score(images=images, prompts=prompts).std
    torch.testing.assert_close(doubts.square().sum(1).sqrt(), std, rtol=1e-3, atol=1e-4)


def test_who_is_preferred_follows_from_the_scores(reward, batch):
    """Whatever learnt from votes says how likely; others say which, unless they have a way of their own."""
    if reward.can.groupwise and not reward.can.pairwise:
        pytest.skip("two pictures of a pair are no group")
    images, prompts = batch
    there = reward.prefer(left=images, right=images.flip(0), prompts=prompts[:1] * 8)
    back = reward.prefer(left=images.flip(0), right=images, prompts=prompts[:1] * 8)
    assert there.valid.all()
    torch.testing.assert_close(there.mean + back.mean, torch.ones(8))
    assert reward.log_odds or not reward.can.trainable
    if not reward.can.pairwise:
        left = reward.score(images=images, prompts=prompts[:1] * 8).mean
        odds = left - left.flip(0)
        expected = torch.sigmoid(odds) if reward.log_odds else (odds > 0) + 0.5 * (odds == 0)
        torch.testing.assert_close(there.mean, expected, rtol=1e-4, atol=1e-5)


def test_says_who_it_is(reward):
    name, _, version = reward.id.rpartition("-")
    assert name
    assert len(version) == 12
    assert reward.id == reward.id


def test_order_does_not_matter(reward, batch):
    images, prompts = batch
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    straight = reward.score(images=images, prompts=prompts).mean
    shuffled = reward.score(images=images[order], prompts=[prompts[i] for i in order]).mean
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-5, atol=1e-5)


def test_company_does_not_matter(reward, batch):
    images, prompts = batch
    together = reward.score(images=images, prompts=prompts).mean
    if reward.can.groupwise:
        two = scores_of(reward, torch.cat([images, images.flip(3)]), 2 * prompts, 3, [*range(2)] * 8)
        groups = [torch.cat([images, images.flip(3)])[i::2] for i in range(2)]
        alone = [reward.score(images=group, prompts=(2 * prompts)[i::2]).mean for i, group in enumerate(groups)]
        torch.testing.assert_close(two.mean, torch.stack(alone, 1).flatten(), rtol=1e-5, atol=1e-5)
        return
    alone = [reward.score(images=images[i : i + 1], prompts=prompts[i : i + 1]).mean[0] for i in range(8)]
    torch.testing.assert_close(torch.stack(alone), together, rtol=1e-5, atol=1e-5)
    for size in (1, 3, 8):
        torch.testing.assert_close(scores_of(reward, images, prompts, size).mean, together, rtol=1e-5, atol=1e-5)


def test_what_it_sees_of_a_picture_does_not_depend_on_the_company(reward, batch):
    images, _ = batch
    with torch.no_grad():
        seen = reward.features(images)
        if seen is not None:
            assert seen.shape[0] == len(images)
            assert torch.isfinite(seen).all()
            torch.testing.assert_close(reward.features(images[1:2]), seen[1:2], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(seen[0], seen[1])


def test_repeats_itself_and_touches_no_generator(reward, batch):
    images, prompts = batch
    before = torch.get_rng_state()
    scores = [reward.score(images=images, prompts=prompts).mean for _ in range(2)]
    assert torch.equal(*scores)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_only_where_promised(reward, batch):
    images, prompts = batch
    images.requires_grad_(True)
    scores = reward.score(images=images, prompts=prompts)
    if reward.can.differentiable:
        (gradient,) = torch.autograd.grad((scores.mean * torch.arange(1.0, 9)).sum(), images)
        assert torch.isfinite(gradient).all()
        assert (gradient.abs().amax((1, 2, 3)) > 0).all()
        assert_slope(reward, images.detach(), prompts, gradient)
    elif not isinstance(reward, FunctionReward):  # a user's function may have a gradient without promising one
        assert not scores.mean.requires_grad


def assert_slope(reward: Reward, images: torch.Tensor, prompts: list[str], gradient: torch.Tensor) -> None:
    """The gradient says what happens when the pictures follow it a little way: not only that there is one."""
    step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    weights = torch.arange(1.0, 9)
    ends = [(reward.score(images=images + sign * step, prompts=prompts).mean * weights).sum() for sign in (1, -1)]
    rise = float(ends[0] - ends[1])
    assert rise == pytest.approx(float((2 * step * gradient).sum()), rel=0.2, abs=2e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_failure_is_reported_and_stays_alone(reward, batch, value):
    images, prompts = batch
    others = [i for i in range(8) if i != 3]
    known = others if reward.can.groupwise else list(range(8))
    whole = scores_of(reward, images[known], [prompts[i] for i in known], 8, [0] * len(known)).mean
    images[3, 1, 5, 7] = value
    scores = scores_of(reward, images, prompts, 8, [0] * 8)
    assert scores.valid.tolist() == [i != 3 for i in range(8)]
    expected = whole if reward.can.groupwise else whole[others]
    torch.testing.assert_close(scores.mean[others], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pictures_are_scored_in_full_precision(reward, batch, dtype):
    images, prompts = batch
    halved = images.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = reward.score(images=halved, prompts=prompts)
    assert scores.mean.dtype == torch.float32
    full = reward.score(images=halved.float(), prompts=prompts).mean
    torch.testing.assert_close(scores.mean, full, rtol=1e-5, atol=1e-5)


def saved(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def horrors() -> dict[str, object]:
    """What pictures can be like, by name; of those that are right to score, the plain picture that they show."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    plain = Image.fromarray(noise)
    grey, few = plain.convert("L"), plain.quantize(8)
    deep = np.asarray(grey).astype(np.uint16) * 257
    holes = np.asarray(few) == 3
    nan = tensor(plain)
    nan[2, 23, 19] = torch.nan
    turned = Image.Exif()
    turned[0x0112] = 6  # lay it on its right side
    lying = saved(plain, "JPEG", exif=turned)
    small = {"1x1": (1, 1), "1x4000": (4000, 1), "4000x1": (1, 4000), "20000x1": (20000, 1)}
    tiny = {
        name: plain.crop((0, 0, 1, 1)).resize(size) if name == "1x1" else plain.resize(size)
        for name, size in small.items()
    }
    clear = plain.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(holes, 0, 255).astype(np.uint8)))
    on_white = tensor(plain).where(~torch.from_numpy(holes), 1.0)
    faint = grey.convert("LA")
    faint.putalpha(128)
    return {
        "nan pixel": nan,
        "truncated": saved(plain)[:700],
        "not a picture": b"<html>",
        "empty": b"",
        "no channels": torch.zeros(1, 4, 4),
        "bomb": saved(Image.new("1", (9000, 9000))),
        **{name: (saved(picture), tensor(picture)) for name, picture in tiny.items()},
        "cmyk": (saved(plain.convert("CMYK"), "TIFF"), tensor(plain.convert("CMYK"))),
        "16 bit": (saved(Image.fromarray(deep)), tensor(grey)),
        "16 bit with a clear grey": (
            saved(Image.fromarray(deep), transparency=int(deep[0, 0])),
            tensor(grey).where(torch.from_numpy(deep != deep[0, 0]), 1.0),
        ),
        "palette with a hole": (
            saved(few, transparency=3),
            tensor(few.convert("RGB")).where(~torch.from_numpy(holes), 1.0),
        ),
        "rgba": (saved(clear), on_white),
        "clear webp": (saved(clear, "WEBP", lossless=True), on_white),
        "grey and alpha": (saved(faint), 1 - (1 - tensor(grey)) * 128 / 255),
        "turned by exif": (
            lying,
            tensor(Image.fromarray(np.asarray(Image.open(io.BytesIO(lying)))).rotate(-90, expand=True)),
        ),
        "animated": (saved(plain, "GIF", save_all=True, append_images=[grey]), tensor(plain.quantize(256))),
        "animated webp": (
            saved(plain, "WEBP", save_all=True, append_images=[grey.convert("RGB")], lossless=True),
            tensor(plain),
        ),
        "pil": (plain, tensor(plain)),
    }


HOPELESS = {"nan pixel", "truncated", "not a picture", "empty", "no channels", "bomb"}


def test_pictures_of_horror(reward):
    """A clear failure or a right score; never a crash, a silent number, or a neighbour that is scored otherwise."""
    if reward.can.groupwise:
        assert_groups_of_horror(reward)
        return
    prompt = DIGIT_CAPTIONS[0]
    found = horrors()
    shown = {name: one[0] if isinstance(one, tuple) else one for name, one in found.items()}
    judged = score_pictures(reward, list(shown.values()), [prompt] * len(shown), micro_size=4)
    for row, name in enumerate(shown):
        known = bool(judged.scores.valid[row])
        assert known == bool(torch.isfinite(judged.scores.mean[row]))
        assert known == (row not in judged.failures), name
        if isinstance(found[name], tuple):
            right = reward.score(images=found[name][1][None], prompts=[prompt])
            assert known == bool(right.valid[0])
            assert_as_shown(name, judged.scores.mean[row], right.mean[0])
    failed = {name for row, name in enumerate(shown) if row in judged.failures}
    assert failed - {"1x1"} == HOPELESS


def assert_as_shown(name: str, found: torch.Tensor, right: torch.Tensor) -> None:
    """Half-clear pixels are rounded to bytes once more."""
    step = 5e-3 if name == "grey and alpha" else 1e-4
    torch.testing.assert_close(found, right, rtol=step, atol=step, equal_nan=True, msg=name)


def assert_groups_of_horror(reward: Reward) -> None:
    """Each with two plain pictures of its size: right scores for the three, or none, with a reason; none for others."""
    found, source = horrors(), torch.Generator().manual_seed(0)
    shown, groups, expected = [], [], []
    for name, one in found.items():
        picture, plain = one if isinstance(one, tuple) else (one, torch.full((3, 24, 20), torch.nan))
        company = list(torch.rand(2, *plain.shape, generator=source))
        groups += [len(groups)] * 3
        shown += [company[0], picture, company[1]]
        stacked = torch.stack([company[0], plain, company[1]])
        scores = scores_of(reward, stacked, [DIGIT_CAPTIONS[0]] * 3, 4, [0] * 3)
        lost = name in HOPELESS - {"nan pixel"}
        expected.append(torch.full((3,), torch.nan) if lost else scores.mean)
    judged = score_pictures(reward, shown, [DIGIT_CAPTIONS[0]] * len(shown), 4, groups)
    assert judged.scores.valid.tolist() == [row not in judged.failures for row in range(len(shown))]
    for name, mean, right in zip(found, judged.scores.mean.split(3), expected, strict=True):
        assert_as_shown(name, mean, right)
        assert name == "1x1" or bool(torch.isfinite(mean).all()) == (name not in HOPELESS), name


def test_any_size(reward, batch):
    images, prompts = batch
    larger = torch.nn.functional.interpolate(images, size=40, mode="bicubic", antialias=True).clamp(0, 1)
    assert reward.score(images=larger, prompts=prompts).valid.all()


@pytest.mark.parametrize(
    ("attribute", "factor"), [("redness", 1.0), ("Own", 1.0), ("instance", -1.0), ("factory", 2.0)]
)
def test_a_users_own_file(own_file, batch, attribute, factor):
    images, prompts = batch[0].mean(1, keepdim=True).expand(-1, 3, -1, -1), batch[1]
    scores = reward_models.load(f"my_own_rewards:{attribute}").score(images=images, prompts=prompts)
    torch.testing.assert_close(scores.mean, factor * images.mean((1, 2, 3)))


def test_a_function_must_give_one_score_a_picture(own_file, batch):
    images, prompts = batch
    with pytest.raises(RewardFailed, match="one score a picture"):
        reward_models.load("my_own_rewards:too_few").score(images=images, prompts=prompts)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("blod", "did you mean 'bold'?"),
        ("qqqq", "known: brightness, contrast"),
        ("bold@3", "takes nothing behind"),
        ("", "an empty name"),
        (" ", "an empty name"),
        ("palette", "needs an argument: palette@COLOURS"),
        ("judge", "needs an argument: judge@FILE"),
        ("judge@none.yaml", "no such file; shipped ones: judge/checklist.yaml, judge/pairwise.yaml"),
        ("rubrics/mine.yaml", "did you mean 'judge@rubrics/mine.yaml'?"),
        ("http://127.0.0.1:8720", "did you mean 'remote@http://127.0.0.1:8720'?"),
        ("my_own_rewards.py:redness", "did you mean 'my_own_rewards:redness'?"),
        ("./my_own_rewards.py:redness", "did you mean 'my_own_rewards:redness'?"),
        ("my_own_rewards:instance@3", "takes nothing behind"),
        ("runs/nowhere", "no such name, folder"),
        ("my_own_rewards:rednes", "did you mean 'redness'?"),
        ("my_own_rewards:number", "is a int, neither"),
        ("my_own_rewards:bad_factory", "gives a int, not a Reward"),
        ("my_own_rewards:failing_factory", "RuntimeError: no GPU here"),
        ("my_broken_rewards:anything", "a_package_that_is_not_there"),
        ("no_such_file:anything", "ModuleNotFoundError"),
        ("my_own_rewards:", "no such name"),
        ("../evil:x", "no such name"),
    ],
)
def test_anything_else_is_refused_in_one_line(own_file, spec, says):
    with pytest.raises(BadInput) as refusal:
        reward_models.load(spec)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_slip_in_a_path_is_answered_with_the_folder_beside_it(tmp_path, monkeypatch):
    (tmp_path / "runs" / "reward").mkdir(parents=True)
    (tmp_path / "runs" / "reward" / "reward.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"did you mean 'runs/reward'\?"):
        reward_models.load("runs/rewards")
    for nowhere in ("runs/another", "nowhere/reward", "runs/\0"):
        with pytest.raises(BadInput, match="'train-reward' makes such a folder"):
            reward_models.load(nowhere)


def test_the_current_directory_shadows_no_installed_package(own_file, tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('shadowed')\n")
    reward_models.load("my_own_rewards:redness")
    assert sys.path[0] != str(tmp_path)
