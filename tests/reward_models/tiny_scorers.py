"""Published scorers in miniature: random weights in the files, names and layouts of the real ones."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, softmax
from transformers import CLIPConfig, CLIPModel

from reward_models.weights import as_open_clip

SIZE = 32
NAMES = ("aesthetic", "clip_score", "clip_similarity", "hpsv2", "hpsv2_1", "image_reward", "pickscore")
QUICK = ("aesthetic", "clip_score")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "hand", "##written", "zero", "one", "two", "three"]
WORDS += ["four", "five", "six", "seven", "eight", "nine", ",", "##s", "é"]


def architecture(quick: bool) -> dict:
    return {
        "embed_dim": 24,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }


def randomised(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Every weight random, so that no bias is 0 and no scale 1 by accident; the same for the same seed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = make()
        for value in model.parameters():
            value.copy_(value * 0.5 + 0.2 * torch.randn(value.shape))
    return model.eval()


def hugging_face_clip(quick: bool, seed: int = 0) -> CLIPModel:
    """The independent forward: transformers' own CLIP."""
    act = "quick_gelu" if quick else "gelu"
    text = dict(hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, projection_dim=24)
    text |= dict(hidden_act=act, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, vocab_size=49408)
    vision = dict(hidden_size=48, intermediate_size=192, num_hidden_layers=2, num_attention_heads=3, projection_dim=24)
    vision |= dict(hidden_act=act, image_size=SIZE, patch_size=8)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    return randomised(lambda: CLIPModel(config), seed)


def timm_encoder() -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0
    )


def blip_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """ImageReward's names, with a picture encoder of timm's, whose names BLIP has, and unequal widths."""
    picture = randomised(timm_encoder, seed).state_dict()
    state = {f"blip.visual_encoder.{name}": value for name, value in picture.items()}
    source = torch.Generator().manual_seed(seed + 1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source) / math.sqrt(shape[-1])

    text = {"embeddings.word_embeddings.weight": drawn(len(WORDS) + 2, 64)}
    text |= {"embeddings.position_embeddings.weight": drawn(40, 64), "embeddings.position_ids": torch.arange(40)[None]}
    norms = {"embeddings.LayerNorm": 64}
    layers = {}
    for i in range(2):
        for kind, seen in (("attention", 64), ("crossattention", 128)):
            parts = {"self.query": 64, "self.key": seen, "self.value": seen, "output.dense": 64}
            layers |= {f"encoder.layer.{i}.{kind}.{part}": (64, width) for part, width in parts.items()}
            norms[f"encoder.layer.{i}.{kind}.output.LayerNorm"] = 64
        layers |= {f"encoder.layer.{i}.intermediate.dense": (96, 64), f"encoder.layer.{i}.output.dense": (64, 96)}
        norms[f"encoder.layer.{i}.output.LayerNorm"] = 64
    text |= {f"{name}.weight": drawn(*shape) for name, shape in layers.items()}
    text |= {f"{name}.bias": drawn(shape[0]) for name, shape in layers.items()}
    text |= {f"{name}.weight": 1 + drawn(width) for name, width in norms.items()}
    text |= {f"{name}.bias": drawn(width) for name, width in norms.items()}
    head = {}
    for number, (outputs, inputs) in zip((0, 2, 4, 6, 7), ((20, 64), (16, 20), (8, 16), (4, 8), (1, 4)), strict=True):
        head |= {f"layers.{number}.weight": drawn(outputs, inputs), f"layers.{number}.bias": drawn(outputs)}
    unused = {"blip.vision_proj.weight": drawn(4, 128), "blip.temp": torch.tensor(0.07)}
    named = {f"blip.text_encoder.{name}": value for name, value in text.items()}
    return state | named | {f"mlp.{name}": value for name, value in head.items()} | unused


def blip_forward(state: dict[str, torch.Tensor], pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor):
    """The independent forward: timm's picture encoder, and BERT with cross-attention written down from the papers."""
    picture = timm_encoder()
    prefix = "blip.visual_encoder."
    picture.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    patches = picture.eval().forward_features(pixels)
    text = {n.removeprefix("blip.text_encoder."): v for n, v in state.items() if n.startswith("blip.text_encoder.")}

    def affine(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, text[f"{name}.weight"], text[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], text[f"{name}.weight"], text[f"{name}.bias"], eps=1e-12)

    def attended(name: str, x: torch.Tensor, seen: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
        q, k, v = (affine(f"{name}.self.{part}", y) for part, y in (("query", x), ("key", seen), ("value", seen)))
        scores = q @ k.transpose(1, 2) / math.sqrt(64)  # one head of width 64
        if shown is not None:
            scores = scores.masked_fill(shown[:, None] == 0, -torch.inf)
        return norm(f"{name}.output.LayerNorm", affine(f"{name}.output.dense", softmax(scores, -1) @ v) + x)

    x = text["embeddings.word_embeddings.weight"][ids] + text["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm("embeddings.LayerNorm", x)
    for i in range(2):
        layer = f"encoder.layer.{i}"
        x = attended(f"{layer}.attention", x, x, mask)
        x = attended(f"{layer}.crossattention", x, patches, None)
        inner = gelu(affine(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", affine(f"{layer}.output.dense", inner) + x)
    h = x[:, 0]
    for number in (0, 2, 4, 6, 7):
        h = linear(h, state[f"mlp.layers.{number}.weight"], state[f"mlp.layers.{number}.bias"])
    return (h[:, 0] - 0.16717362830052426) / 1.0333394966054072


def aesthetic_head(seed: int = 3) -> nn.Sequential:
    """The published chain of linear layers, with its dropouts, which leave holes in the numbering."""

    def chain() -> nn.Sequential:
        parts = [nn.Linear(24, 20), nn.Dropout(), nn.Linear(20, 16), nn.Dropout(), nn.Linear(16, 8), nn.Dropout()]
        return nn.Sequential(*parts, nn.Linear(8, 4), nn.Linear(4, 1))

    head = randomised(chain, seed)
    with torch.no_grad():
        head[0].weight.mul_(20)  # or the pictures of a random CLIP hardly differ
    return head


def published(folder: Path) -> dict[str, str]:
    """Write every scorer's files into a folder of its own; return the specification of each."""
    for name in NAMES:
        place = folder / name
        place.mkdir(parents=True)
        if name == "image_reward":
            torch.save(blip_state(), place / "ImageReward.pt")
            (place / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
            continue
        described = {"model_cfg": architecture(name in QUICK), "preprocess_cfg": {}}
        (place / "open_clip_config.json").write_text(json.dumps(described))
        state = {n: v.contiguous().clone() for n, v in hugging_face_clip(name in QUICK).state_dict().items()}
        if name in ("hpsv2", "hpsv2_1"):
            data = {"epoch": 1, "state_dict": {f"module.{n}": v for n, v in as_open_clip(state).items()}}
            torch.save(data, place / f"HPS_{'v2.1' if name == 'hpsv2_1' else 'v2'}_compressed.pt")
        elif name == "clip_similarity":
            save_file(as_open_clip(state), place / "open_clip_model.safetensors")
        else:
            save_file(state, place / "model.safetensors")
        if name == "aesthetic":
            head = {f"layers.{n}": value for n, value in aesthetic_head().state_dict().items()}
            torch.save(head, place / "sac+logos+ava1-l14-linearMSE.pth")
    return {name: f"{name}@{folder / name}" for name in NAMES}
