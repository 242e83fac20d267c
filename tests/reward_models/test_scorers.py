"""Each published scorer against an independent forward on random weights, from files as they are published."""

import contextlib
import gzip
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_scorers as tiny
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv
from transformers import BertTokenizer, CLIPTokenizer

import reward_models
from reward_models.aesthetic import collapsed
from reward_models.preprocess import Preprocessing
from reward_models.resize import bicubic, letterboxed, shortest_side
from reward_models.weights import as_open_clip, read_weights
from rlhf_images.errors import BadInput

PROMPTS = ["a cat", "a handwritten seven, two cats", "É! " + 60 * "three "]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    return tiny.published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0))


def normalised(images: torch.Tensor) -> torch.Tensor:
    return tv.normalize(images, CLIP_MEAN, CLIP_STD)


def clip_tokenizer() -> CLIPTokenizer:
    """transformers' tokenizer with the vocabulary of OpenAI's CLIP, out of the merges that open_clip ships."""
    file = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    numbers = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=numbers, merges=[tuple(merge.split()) for merge in merges])


def cosines(quick: bool, images: torch.Tensor, prompts: list[str]) -> tuple[torch.Tensor, float, torch.Tensor]:
    """Return the cosines ``(B,)``, the scale and the picture embeddings by transformers alone."""
    model = tiny.hugging_face_clip(quick)
    ids = clip_tokenizer()(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, pixel_values=normalised(images))
    scale = model.logit_scale.exp().item()
    return out.logits_per_image.diagonal() / scale, scale, out.image_embeds


def score(spec: str, images: torch.Tensor, prompts: list[str] = PROMPTS) -> torch.Tensor:
    scores = reward_models.load(spec).score(images=images, prompts=prompts)
    assert scores.valid.all()
    return scores.mean


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 1e-3  # or the comparison says nothing
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_pickscore(sources, images):
    cosine, scale, _ = cosines(False, images, PROMPTS)
    assert_equal(score(sources["pickscore"], images), scale * cosine)


@pytest.mark.parametrize("name", ["hpsv2", "hpsv2_1", "clip_similarity"])
def test_plain_cosines(sources, images, name):
    assert_equal(score(sources[name], images), cosines(False, images, PROMPTS)[0])


def test_clip_score(sources, images):
    cosine, _, _ = cosines(True, images, ["A photo depicts " + prompt for prompt in PROMPTS])
    assert_equal(score(sources["clip_score"], images), 2.5 * cosine.clamp(min=0))
    opposite = reward_models.load(sources["clip_score"])
    opposite.clip.model.text_projection.data.neg_()
    assert torch.equal(opposite.score(images=images, prompts=PROMPTS).mean, 2.5 * (-cosine).clamp(min=0).round())


def test_aesthetic(sources, images):
    _, _, embedded = cosines(True, images, PROMPTS)
    with torch.no_grad():
        expected = tiny.aesthetic_head()(embedded)[:, 0]
    assert_equal(score(sources["aesthetic"], images), expected)


def test_image_reward(sources, images):
    folder = Path(sources["image_reward"].split("@")[1])
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=True)
    text = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    assert len(set(text.attention_mask.sum(1).tolist())) == 3  # or padding is not tested
    with torch.no_grad():
        expected = tiny.blip_forward(tiny.blip_state(), normalised(images), text.input_ids, text.attention_mask)
    assert_equal(score(sources["image_reward"], images), expected)


def test_the_key_map_covers_every_weight_of_a_real_architecture():
    """By names and shapes alone, on the meta device: ViT-B-32 in transformers against open_clip's."""
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        theirs = CLIPModel(CLIPConfig()).state_dict()
        ours = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu")).state_dict()
    mapped = as_open_clip({**theirs, "text_model.embeddings.position_ids": torch.empty(1, 77, device="meta")})
    assert {name: value.shape for name, value in mapped.items()} == {name: value.shape for name, value in ours.items()}


def test_a_chain_of_linear_layers_is_one(sources):
    chain = tiny.aesthetic_head().double()
    weight, bias = collapsed(chain.state_dict(), "test")
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(x @ weight.double() + bias.double(), chain(x)[:, 0].detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(collapsed({"weight": weight[None], "bias": bias[None]}, "version 1"), (weight, bias))


def picture(height: int, width: int) -> Image.Image:
    smooth = torch.rand(1, 3, max(1, height // 4), max(1, width // 4), generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(smooth, size=(height, width), mode="bilinear")[0]
    return tv.to_pil_image(pixels)


SIZES = [(64, 64), (100, 60), (61, 100), (20, 33), (224, 31), (32, 32), (1, 40), (7, 1)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shortest_side_equals_torchvision_on_pil(height, width):
    image = picture(height, width)
    theirs = tv.center_crop(tv.resize(image, tiny.SIZE, InterpolationMode.BICUBIC), [tiny.SIZE, tiny.SIZE])
    ours = shortest_side(tv.to_tensor(image)[None], tiny.SIZE)[0]
    assert (ours * 255 - tv.pil_to_tensor(theirs)).abs().max() < 1.5


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_letterbox_equals_hpsv2_on_pil(height, width):
    """HPSv2's ResizeMaxSize in torchvision's words."""
    image, size = picture(height, width), tiny.SIZE
    scale = size / max(height, width)
    new = [max(1, round(side * scale)) for side in (height, width)]
    down, across = size - new[0], size - new[1]
    resized = tv.resize(image, new, InterpolationMode.BICUBIC)
    theirs = tv.pad(resized, [across // 2, down // 2, across - across // 2, down - down // 2], fill=0)
    ours = letterboxed(tv.to_tensor(image)[None], size)[0]
    assert ours.shape == (3, size, size)
    assert (ours * 255 - tv.pil_to_tensor(theirs)).abs().max() < 1.5


@pytest.mark.parametrize(("height", "width"), [(61, 100), (224, 31), (20, 33), (33, 20), (9, 130), (32, 47)])
@pytest.mark.parametrize("saturated", [True, False])
def test_noise_and_sharp_edges_are_pillows_too(height, width, saturated):
    """Where a bicubic filter overshoots, Pillow clips what it has after the rows, before it goes across them."""
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3))
    array = (np.where(noise > 127, 255, 0) if saturated else noise).astype(np.uint8)
    images = torch.from_numpy(array).permute(2, 0, 1)[None] / 255

    def pillows(rows: int, columns: int, crop: bool = False) -> torch.Tensor:
        """As Pillow did it before it chose the order by its cost: rows first."""
        top, left = ((side - shorter) // 2 if crop else 0 for side in (height, width))
        high, wide = (shorter, shorter) if crop else (height, width)
        picture = Image.fromarray(array).crop((left, top, left + wide, top + high))
        first = picture.resize((columns, picture.height), Image.Resampling.BICUBIC)
        return tv.pil_to_tensor(first.resize((columns, rows), Image.Resampling.BICUBIC)).float()

    size, shorter, longer = tiny.SIZE, min(height, width), max(height, width)
    whole = [size if side == shorter else int(size * side / shorter) for side in (height, width)]
    small = [max(1, round(side * size / longer)) for side in (height, width)]
    top, left = ((size - side) // 2 for side in small)
    boxed = letterboxed(images, size)[0, :, top : top + small[0], left : left + small[1]]
    for ours, theirs in (
        (shortest_side(images, size)[0], tv.center_crop(pillows(*whole), [size, size])),
        (boxed, pillows(*small)),
        (Preprocessing(size).fitted(images)[0], pillows(size, size, crop=True)),
    ):
        assert (ours * 255 - theirs).abs().max() < 1.5


@pytest.mark.parametrize(("length", "resized"), [(16, 7), (7, 16), (5, 5), (1, 9), (9, 1)])
def test_the_resampling_matrix_is_torchs_antialiased_bicubic(length, resized):
    x = torch.rand(1, 1, length, 3, generator=torch.Generator().manual_seed(2))
    theirs = torch.nn.functional.interpolate(x, size=(resized, 3), mode="bicubic", antialias=True)[0, 0]
    torch.testing.assert_close(bicubic(length, resized, 0, resized) @ x[0, 0], theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bicubic(length, resized, 0, resized).sum(1), torch.ones(resized))


def test_a_very_long_picture_costs_no_memory():
    images = torch.rand(1, 3, 1, 4000, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    square = shortest_side(images, 224)
    assert square.shape == (1, 3, 224, 224)
    square.sum().backward()
    assert torch.isfinite(images.grad).all()


@pytest.mark.parametrize("fit", [shortest_side, letterboxed])
def test_saturated_pixels_keep_their_gradient(fit):
    """A black and white edge overshoots under a bicubic filter; a hard clamp would cut the gradient there."""
    edge = torch.zeros(1, 3, 48, 48)
    edge[..., 24:] = 1
    edge.requires_grad_(True)
    small = fit(edge, tiny.SIZE)
    assert ((small >= 0) & (small <= 1)).all()
    (gradient,) = torch.autograd.grad(small.sum(), edge)
    assert (gradient.abs() > 0).all()


@pytest.mark.parametrize("name", tiny.NAMES)
def test_every_weight_and_constant_moves_to_the_device(sources, name, monkeypatch):
    """Shown on the meta device, which like a GPU computes with nothing that was left on the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none for this device
    images = torch.rand(2, 3, 40, 33)
    reward = reward_models.load(sources[name])
    reward.score(images=images, prompts=["a cat", "two"])  # fills what is kept between calls
    reward = reward.to("meta")
    if name == "image_reward":  # transformers asks the mask for numbers, which meta has not
        assert {value.device.type for value in reward.network.state_dict().values()} == {"meta"}
        return
    for given in (images, images.to("meta")):
        assert reward.score(images=given, prompts=["a cat", "two"]).mean.device.type == "meta"


@pytest.mark.parametrize("name", tiny.NAMES)
def test_the_id_is_that_of_the_weights(sources, name):
    first, second = (reward_models.load(sources[name]) for _ in range(2))
    assert first.id == second.id
    assert first.id.startswith(name)
    module = second.network if name == "image_reward" else second.clip.model
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1
    third = reward_models.load(sources[name])
    changed = third.network if name == "image_reward" else third.clip.model
    changed.load_state_dict(module.state_dict())
    assert third.id != first.id


def test_each_scorer_has_its_own_id(sources):
    assert len({reward_models.load(sources[name]).id for name in tiny.NAMES}) == len(tiny.NAMES)


class Exploit:
    def __reduce__(self):
        return (Path.touch, (Path("exploited"),))


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "HPS_v2_compressed.pt").write_bytes(pickle.dumps({"state_dict": Exploit()}))
    torch.save({"state_dict": Exploit()}, tmp_path / "zipped.pt")
    for file in ("HPS_v2_compressed.pt", "zipped.pt"):
        with pytest.raises(BadInput, match="cannot be read as weights alone"):
            reward_models.load(f"hpsv2@{tmp_path / file}")
    assert not (tmp_path / "exploited").exists()


def test_wrong_files_are_refused_in_one_line(tmp_path, sources):
    """Another architecture, a truncated file, something else than weights, half an attention, a missing vocabulary."""
    pickscore = Path(sources["pickscore"].split("@")[1]) / "model.safetensors"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.safetensors").write_bytes(pickscore.read_bytes()[:1000])
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "torn.pt").write_bytes(b"\x80\x02h\x05.")
    eighths = {name: tensor.to(torch.int8) for name, tensor in read_weights(pickscore).items()}
    save_file(eighths, tmp_path / "eighths.safetensors")
    state = read_weights(pickscore)
    del state["vision_model.encoder.layers.0.self_attn.q_proj.weight"]
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "open_clip_config.json").write_bytes((pickscore.parent / "open_clip_config.json").read_bytes())
    save_file(state, tmp_path / "half" / "model.safetensors")
    torch.save(tiny.blip_state(), tmp_path / "ImageReward.pt")
    specs = {
        f"pickscore@{alone}": "cannot be read as weights",
        f"hpsv2@{tmp_path / 'list.pt'}": "holds a list",
        f"hpsv2@{tmp_path / 'torn.pt'}": "cannot be read as weights alone (KeyError",
        f"pickscore@{tmp_path / 'eighths.safetensors'}": "quantised",
        f"pickscore@{tmp_path / 'half'}": "there is only k, v",
        f"image_reward@{tmp_path}": "no vocab.txt",
        f"image_reward@{pickscore}": "nothing under 'blip.visual_encoder.'",
        f"pickscore@{tmp_path / 'nowhere'}": "published at yuvalkirstain/PickScore_v1",
        "pickscore": "not on this machine",
        f"aesthetic@{pickscore}": "wants a folder",
    }
    for spec, says in specs.items():
        with pytest.raises(BadInput) as refusal:
            reward_models.load(spec)
        assert says in str(refusal.value), refusal.value
        assert "\n" not in str(refusal.value)


def test_weights_of_another_architecture_are_refused(sources, tmp_path):
    folder = Path(sources["pickscore"].split("@")[1])
    (tmp_path / "open_clip_config.json").write_text(
        (folder / "open_clip_config.json").read_text().replace('"layers": 2, "width": 48', '"layers": 3, "width": 48')
    )
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match="not the weights of this architecture"):
        reward_models.load(f"pickscore@{tmp_path}")


def test_what_lies_beside_the_weights_says_how_they_see(sources, tmp_path):
    """The normalisation of a fine-tune is its own; a wrong one would fail silently."""
    folder = shutil.copytree(sources["pickscore"].split("@")[1], tmp_path / "copy")
    described = json.loads((folder / "open_clip_config.json").read_text())
    halves = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps(described | {"preprocess_cfg": halves}))
    seen = reward_models.load(f"pickscore@{folder}").clip.preprocessing
    assert (seen.mean, seen.std) == ((0.5,) * 3, (0.5,) * 3)
    assert reward_models.load(sources["pickscore"]).clip.preprocessing.mean == CLIP_MEAN
    for wrong in ({"mean": [0.5]}, {"std": "half"}, 3):
        (folder / "open_clip_config.json").write_text(json.dumps(described | {"preprocess_cfg": wrong}))
        with pytest.raises(BadInput, match=r"no readable open_clip_config\.json"):
            reward_models.load(f"pickscore@{folder}")


def test_the_whole_picture_counts_for_hpsv2_and_the_middle_for_pickscore(sources):
    """What lies beside the central square changes the one and not the other."""
    wide = torch.rand(1, 3, 40, 120, generator=torch.Generator().manual_seed(5))
    changed = wide.clone()
    changed[..., :20] = 1 - changed[..., :20]
    for name, sees in (("hpsv2", True), ("pickscore", False)):
        reward = reward_models.load(sources[name])
        before, after = (reward.score(images=images, prompts=["a cat"]).mean for images in (wide, changed))
        assert bool((before - after).abs() > 1e-4) == sees
