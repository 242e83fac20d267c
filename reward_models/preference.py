"""The reward model that is trained on votes: an open_clip image and text tower, and a linear head on what they say.

    score = head · [features, cosine, misfit, statistics] + bias

    features    (E,)  the normalised image embedding, centred, of total variance 1 over the training pictures
    cosine      ()    how well the picture fits its prompt, in standard deviations of the training pictures
    misfit      ()    min(cosine + 1, 0): only the worst fits count, since what is recognised at all is seldom preferred
                      for being recognised better
    statistics  (4,)  brightness, contrast, sharpness and saturation, which CLIP's features hardly tell, in standard
                      deviations of the training pictures, bent so that far outside them more of one counts no more

The head starts as `PRIOR_COSINE` and `PRIOR_MISFIT`, which are CLIP's own opinion, and is taught the rest by votes; a
linear one needs only hundreds. In standard deviations, because a raw cosine moves by a few hundredths, and no ridge
would let votes give it its due. The statistics are what people's taste is known to lean on. Here that stands in the
open: the card lists their weights. A difference of scores is in log-odds; 0 is the average training picture.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import normalize

from rlhf_images.reward import Capabilities, Reward, Scores, identity

from . import saved
from .architecture import Architecture, Towers, built, new_towers, tokens
from .preprocess import FIT, Preprocessing
from .weights import digest

STATISTICS = ("brightness", "contrast", "sharpness", "saturation")
PRIOR_COSINE, PRIOR_MISFIT = 0.5, 2.0
"""Log-odds, a priori, of a picture that fits its prompt better by one standard deviation, anywhere and below -1."""
RANGE = 3.0
"""Standard deviations of the training pictures at which a statistic levels off: no vote was cast out there."""
FORMAT = "rlhf-images preference model 1"
WEIGHTS = "reward.safetensors"


def statistics(pixels: Tensor) -> Tensor:
    """Return the `STATISTICS` of ``pixels (B, 3, S, S)`` in [0, 1] as ``(B, 4)``."""
    grey = pixels.mean(1)
    across, down = pixels.diff(dim=-1).abs().mean((1, 2, 3)), pixels.diff(dim=-2).abs().mean((1, 2, 3))
    variance = grey.var((1, 2), correction=0)
    contrast = (variance + 1e-12).sqrt()  # the root of 0 has no gradient; 1e-6 is far below a byte's step
    saturation = (pixels.amax(1) - pixels.amin(1)).mean((1, 2))
    return torch.stack([grey.mean((1, 2)), contrast, (across + down) / 2, saturation], 1)


@final
class Network(nn.Module):
    """The towers, the scales of the evidence, and the head."""

    clip: Any
    feature_mean: Tensor
    feature_scale: Tensor
    cosine_mean: Tensor
    cosine_scale: Tensor
    statistic_mean: Tensor
    statistic_scale: Tensor
    prior: Tensor

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.clip, self.preprocessing = towers.clip, towers.preprocessing
        embed = int(towers.architecture["embed_dim"])
        self.register_buffer("feature_mean", torch.zeros(embed))
        self.register_buffer("feature_scale", torch.ones(()))
        self.register_buffer("cosine_mean", torch.zeros(()))
        self.register_buffer("cosine_scale", torch.ones(()))
        self.register_buffer("statistic_mean", torch.zeros(len(STATISTICS)))
        self.register_buffer("statistic_scale", torch.ones(len(STATISTICS)))
        prior = torch.zeros(embed + 2 + len(STATISTICS))
        prior[embed : embed + 2] = torch.tensor([PRIOR_COSINE, PRIOR_MISFIT])
        self.register_buffer("prior", prior)
        self.head = nn.Parameter(prior.clone())
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, evidence: Tensor) -> Tensor:
        """Return the scores ``(B,)`` of ``evidence (B, D)``."""
        return evidence @ self.head + self.bias

    def evidence(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Return what speaks for ``pixels (B, 3, S, S)`` in [0, 1] with prompts as ``texts (B, E)``: ``(B, D)``."""
        features = normalize(self.clip.encode_image(self.preprocessing.normalised(pixels)), dim=-1)
        cosine = ((features * texts).sum(-1, keepdim=True) - self.cosine_mean) / self.cosine_scale
        deviation = (statistics(pixels) - self.statistic_mean) / self.statistic_scale
        centred = (features - self.feature_mean) / self.feature_scale
        return torch.cat([centred, cosine, (cosine + 1).clamp(max=0), RANGE * torch.tanh(deviation / RANGE)], 1)

    def looking(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Return the scores ``(B,)`` of what `evidence` sees."""
        scores: Tensor = self(self.evidence(pixels, texts))
        return scores

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor], texts: Tensor) -> None:
        """Set the scales of the evidence from training pictures, in parts ``(B, 3, S, S)``, and their ``texts``."""
        seen = [(self.clip.encode_image(self.preprocessing.normalised(part)), statistics(part)) for part in batches]
        images, found = (torch.cat(parts) for parts in zip(*seen, strict=True))
        features = normalize(images, dim=-1)
        cosine = (features * texts.to(features)).sum(-1)
        self.cosine_mean.copy_(cosine.mean())
        self.cosine_scale.copy_(cosine.std(correction=0).clamp(min=1e-4))
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_((features - features.mean(0)).square().sum(1).mean().sqrt().clamp(min=1e-6))
        self.statistic_mean.copy_(found.mean(0))
        self.statistic_scale.copy_(found.std(0, correction=0).clamp(min=1e-3))  # grey pictures have no saturation


@final
class PreferenceModel(Reward):
    """A network with its vocabulary, its architecture and the scores it gave in training. Made by `new` or `load`."""

    can = Capabilities(differentiable=True, trainable=True)
    log_odds = True

    def __init__(self, towers: Towers, reference: Tensor | None = None) -> None:
        self.architecture = towers.architecture
        self.preprocessing = towers.preprocessing
        self.network = Network(towers).eval().requires_grad_(False)
        self.reference = torch.zeros(0) if reference is None else reference
        """The sorted scores ``(N,)`` of the training pictures, by which a score answers as a percentile."""
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def new(cls, architecture: Architecture | str) -> "PreferenceModel":
        """Return an untrained model; see `architecture.new_towers`."""
        return cls(new_towers(architecture))

    @property
    def id(self) -> str:
        """Return a name with a hash of the weights, the architecture and how pictures are prepared."""
        architecture = json.dumps(self.architecture, sort_keys=True)
        return identity("preference", digest(self.network), architecture, FIT, repr(self.preprocessing))

    def to(self, device: torch.device | str) -> "PreferenceModel":
        """Return the model with its weights on ``device``."""
        self.network.to(device)
        self._texts.clear()
        return self

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.network.head.device

    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)`` of ``images (B, 3, H, W)``, in float32, with gradient to the pixels."""
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.preprocessing.fitted(images.to(self.device))
            return Scores.of(self.network(self.network.evidence(pixels, self.texts(prompts))))

    def features(self, images: Tensor) -> Tensor:
        """Return the normalised image embeddings ``(B, E)``."""
        pixels = self.preprocessing.fitted(images.to(self.device))
        embedded: Tensor = self.network.clip.encode_image(self.preprocessing.normalised(pixels))
        return normalize(embedded, dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Return the normalised text embeddings ``(B, E)``; each prompt is embedded once, and alone."""
        for prompt in set(prompts) - self._texts.keys():
            embedded = self.network.clip.encode_text(tokens([prompt], self.architecture).to(self.device))
            self._texts[prompt] = normalize(embedded, dim=-1)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def forget_texts(self) -> None:
        """Drop the embedded prompts, as must be done when the text tower has changed."""
        self._texts.clear()

    def tastes(self) -> dict[str, float]:
        """Return the log-odds of one standard deviation of the cosine, the misfit and each statistic, by name."""
        weights = self.network.head.detach().cpu()[-2 - len(STATISTICS) :].tolist()
        return dict(zip(("cosine", "misfit", *STATISTICS), weights, strict=True))

    def save(self, folder: str | Path) -> None:
        """Write the weights as safetensors, then `reward.json`: see `saved`."""
        weights = save({name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()})
        told = {
            "format": FORMAT,
            "weights_sha256": saved.sha256(weights),
            "architecture": self.architecture,
            "preprocessing": {
                "fit": FIT,
                "size": self.preprocessing.size,
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
            },
        }
        saved.write(Path(folder), {WEIGHTS: weights}, told, self.reference)

    @classmethod
    def load(cls, folder: str | Path) -> "PreferenceModel":
        """Return the model of ``folder``. Raises `BadInput` for a folder that is not ours, or damaged."""
        folder = Path(folder)
        told = saved.described(folder, FORMAT)
        with saved.damage_told(folder):
            weights = saved.checked(folder / WEIGHTS, told["weights_sha256"])
            preprocessing = told["preprocessing"]
            if preprocessing["fit"] != FIT:
                raise ValueError(f"its preprocessing is '{preprocessing['fit']}', which is not known here")
            mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
            prepared = Preprocessing(int(preprocessing["size"]), mean, std)
            architecture = told["architecture"]
            model = cls(Towers(built(architecture), architecture, prepared), torch.tensor(told["reference"]))
            model.network.load_state_dict(load_file(weights))
            return model
