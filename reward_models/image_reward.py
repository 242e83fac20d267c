"""ImageReward (Xu et al. 2023): BLIP reads the prompt while looking at the picture, and a linear head scores it.

    score = (w · h + b - 0.1672) / 1.0333,    h the first of BLIP's 35 text states, of a text encoder with
                                              cross-attention to a ViT-L/16's patches

The published head has five layers without activations, and collapses to one vector (see `aesthetic`).
``image_reward@FOLDER``: the published ImageReward.pt with ``vocab.txt``, that of bert-base-uncased, beside it. The
sizes are read off the weights.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import final

import open_clip  # type: ignore[import-untyped,unused-ignore]
import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, identity

from .aesthetic import collapsed
from .preprocess import Preprocessing
from .resize import shortest_side
from .weights import digest, fill, located, read_weights

REPOSITORY = "THUDM/ImageReward"
VOCABULARY_REPOSITORY = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the published model's raw scores on its own training pictures."""
TOKENS = 35
HEAD_WIDTH = 64
"""Width of an attention head, in both encoders of every published BLIP."""

_RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"^blocks\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
)
"""The picture encoder's published names to those of transformers; the text encoder's are the same."""


@final
class Network(nn.Module):
    """BLIP's two encoders and the collapsed head."""

    head: Tensor
    bias: Tensor

    def __init__(self, state: dict[str, Tensor], source: object) -> None:
        super().__init__()
        parts = {part: _under(part, state) for part in ("blip.visual_encoder.", "blip.text_encoder.", "mlp.")}
        missing = [part for part, weights in parts.items() if not weights]
        if missing:
            raise BadInput(f"{source}: not ImageReward's weights: nothing under '{missing[0]}' in it")
        picture, text, head = parts.values()
        looks = _picture_config(picture, source)
        assert isinstance(looks.image_size, int)
        self.size = looks.image_size
        """Of the pictures that it takes, in pixels."""
        with torch.random.fork_rng(devices=[]):
            self.picture_encoder = BlipVisionModel(looks)
            self.text_encoder = BlipTextModel(_text_config(text, source), add_pooling_layer=False)
        fill(self.picture_encoder, {_renamed(name): value for name, value in picture.items()}, source)
        fill(self.text_encoder, {n: value for n, value in text.items() if not n.endswith("position_ids")}, source)
        weight, bias = collapsed(head, source)
        self.register_buffer("head", weight)
        self.register_buffer("bias", bias)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the scores ``(B,)`` of prepared ``pixels (B, 3, S, S)`` and tokens ``(B, 35)``."""
        patches = self.picture_encoder(pixel_values=pixels).last_hidden_state
        read = self.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=patches)
        scores: Tensor = (read.last_hidden_state[:, 0] @ self.head + self.bias - MEAN) / STD
        return scores


@final
class ImageReward(Reward):
    """About -2 to 2: in standard deviations of the published model's training pictures."""

    can = Capabilities(differentiable=True)

    def __init__(self, network: Network, vocabulary: Path) -> None:
        self.network = network.eval().requires_grad_(False)
        self.preprocessing = Preprocessing(network.size, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        self.tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        self.tokenizer.enable_truncation(TOKENS)
        self.tokenizer.enable_padding(length=TOKENS)

    @classmethod
    def load(cls, source: str | None = None) -> "ImageReward":
        """Return the scorer with the weights and vocabulary of ``source``, or with the hub's."""
        path = located(source, ("ImageReward.pt", "ImageReward.safetensors"), REPOSITORY, "image_reward")
        network = Network(read_weights(path), path)
        beside = None if source is None else str(path.parent)
        vocabulary = located(beside, ("vocab.txt",), VOCABULARY_REPOSITORY, "image_reward")
        try:
            scorer = cls(network, vocabulary)
        except Exception as error:  # the tokenizer is not written in Python: it raises bare Exceptions
            raise BadInput(f"{vocabulary}: not a BERT vocabulary ({' '.join(str(error).split())[:120]})") from None
        if scorer.tokenizer.get_vocab_size() > network.text_encoder.config.vocab_size:
            raise BadInput(f"{vocabulary}: more words than the model's; it wants that of bert-base-uncased")
        return scorer

    @cached_property
    def id(self) -> str:
        """Return the scorer's name and a hash of its weights, vocabulary and preprocessing."""
        words = self.tokenizer.to_str()
        return identity("image_reward", digest(self.network), words, shortest_side.__name__, repr(self.preprocessing))

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``, with gradient to the pixels."""
        device = self.network.head.device
        encoded = self.tokenizer.encode_batch(list(prompts))
        ids = torch.tensor([one.ids for one in encoded], device=device)
        mask = torch.tensor([one.attention_mask for one in encoded], device=device)
        with torch.autocast(device.type, enabled=False):
            pixels = self.preprocessing.normalised(shortest_side(images.to(device), self.preprocessing.size))
            return Scores.of(self.network(pixels, ids, mask))

    def to(self, device: torch.device | str) -> "ImageReward":
        """Return the scorer with its weights on ``device``."""
        self.network.to(device)
        return self


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _picture_config(state: dict[str, Tensor], source: object) -> BlipVisionConfig:
    try:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
        inner = state["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise BadInput(f"{source}: not the weights of BLIP's picture encoder ({error})") from None
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=_layers(r"blocks\.(\d+)\.", state),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def _text_config(state: dict[str, Tensor], source: object) -> BlipTextConfig:
    try:
        words, width = state["embeddings.word_embeddings.weight"].shape
        places = state["embeddings.position_embeddings.weight"].shape[0]
        inner = state["encoder.layer.0.intermediate.dense.weight"].shape[0]
        seen = state["encoder.layer.0.crossattention.self.key.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise BadInput(f"{source}: not the weights of BLIP's text encoder ({error})") from None
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=seen,
        intermediate_size=inner,
        num_hidden_layers=_layers(r"encoder\.layer\.(\d+)\.", state),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=places,
        bos_token_id=None,
        sep_token_id=None,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _layers(pattern: str, state: dict[str, Tensor]) -> int:
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=0)
