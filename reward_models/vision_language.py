"""A vision-language model with one score in the place of its next word, fine-tuned on votes, and its folder.

    score = w · (the last hidden state of: picture, then a text with the prompt)

The base stays where it is, and as it is: the folder holds the adapters, w, and the hash of the base's weights.
"""

import hashlib
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rlhf_images.errors import BadInput
from rlhf_images.reward import Capabilities, Reward, Scores, identity

from . import saved
from .adapters import Adapters
from .chat import Question, alike, pretrained, shown_to
from .weights import digest

FORMAT = "rlhf-images vision-language 1"
WEIGHTS = "adapters.safetensors"
DTypes = Literal["float32", "bfloat16"]


@final
class FloatHead(nn.Linear):
    """w, in float32 whatever the base is in: small steps must not be lost."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the score of every place ``(B, L, 1)``."""
        return super().forward(hidden.float())


@final
class Base:
    """A sequence classifier of transformers that takes pictures, with its processor, before anything is learnt."""

    def __init__(self, path: str, dtype: DTypes) -> None:
        from transformers import AutoModelForSequenceClassification

        self.path, self.dtype = path, dtype
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        no = "transformers has no sequence classifier for it"
        with torch.random.fork_rng(devices=[]):
            self.processor, model = pretrained(
                AutoModelForSequenceClassification, path, no, ("score.weight",), dtype=kind, num_labels=1
            )
            text = model.config.get_text_config()
            head = FloatHead(text.hidden_size, 1, bias=False)
            nn.init.normal_(head.weight, std=0.1 * text.hidden_size**-0.5)
        if "pixel_values" not in inspect.signature(model.forward).parameters:
            raise BadInput(f"{path}: {type(model).__name__} takes no pictures; Gemma 3's and Qwen 3.5's do")
        if text.pad_token_id is None:
            text.pad_token_id = self.processor.tokenizer.pad_token_id
        model.score = nn.Identity()
        self.hash = digest(model)  # of what the folder holds: the head was drawn just now
        model.score = head
        self.model = model.requires_grad_(False)

    def adapted(self, adapters: Adapters) -> Any:
        """Return the model with adapters on every linear layer, and w, to be learnt."""
        from peft import LoraConfig, get_peft_model

        options: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": "all-linear", "modules_to_save": ["score"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that will go
            return get_peft_model(self.model, LoraConfig(r=adapters.rank, lora_alpha=adapters.alpha, **options))


@final
class VisionLanguage(Reward):
    """Scores in log-odds. Made by `train_vision_language`, or by `load`."""

    can = Capabilities(trainable=True)
    log_odds = True

    def __init__(self, base: Base, model: Any, adapters: Adapters, text: str) -> None:
        self.base, self.adapters, self.text = base, adapters, text
        self.model = model.eval().requires_grad_(False)

    @property
    def id(self) -> str:
        """Return a hash of base, adapters, text, and how pictures are prepared."""
        learnt = hashlib.sha256(save(self._learnt())).hexdigest()
        prepared = self.base.processor.image_processor.to_json_string()
        return identity("vision_language", self.base.hash, learnt, self.text, self.base.dtype, prepared)

    @torch.no_grad()
    def score(self, *, images: Tensor, prompts: Sequence[str]) -> Scores:
        """Return the scores ``(B,)``; a picture that the model cannot be shown has none."""
        device = self.model.device
        prepared = [
            self.prepared(image, prompt) if bool(torch.isfinite(image).all()) else None
            for image, prompt in zip(images, prompts, strict=True)
        ]
        found = torch.full((len(prompts),), torch.nan)
        for rows, inputs in alike(prepared):
            with torch.autocast(device.type, enabled=False):
                logits = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
            found[rows] = logits[:, 0].float().cpu()
        return Scores.of(found.to(images.device))

    def prepared(self, image: Tensor, prompt: str) -> dict[str, Tensor] | None:
        """Return what the model takes of a picture ``(3, H, W)`` and its prompt."""
        question = Question((image,), self.text.replace("{prompt}", prompt))
        return shown_to(self.base.processor, question, self.base.model.dtype, add_generation_prompt=False)

    def to(self, device: torch.device | str) -> "VisionLanguage":
        """Return the model with its weights on ``device``."""
        self.model.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write the adapters and w, then reward.json with their hash."""
        weights = save(self._learnt())
        told = {
            "format": FORMAT,
            "base": self.base.path,
            "base_sha256": self.base.hash,
            "dtype": self.base.dtype,
            "adapters": {"rank": self.adapters.rank, "alpha": self.adapters.alpha},
            "text": self.text,
            "weights_sha256": saved.sha256(weights),
        }
        saved.write(folder, {WEIGHTS: weights}, told, self.reference)

    @classmethod
    def load(cls, folder: str) -> "VisionLanguage":
        """Return the model of ``folder``. Raises `BadInput` if it is damaged, or its base is another one now."""
        from peft import set_peft_model_state_dict

        told = saved.described(Path(folder), FORMAT)
        with saved.damage_told(Path(folder)):
            state = load_file(saved.checked(Path(folder) / WEIGHTS, told["weights_sha256"]))
            adapters = Adapters(int(told["adapters"]["rank"]), int(told["adapters"]["alpha"]))
            path, base_hash, dtype, text = (str(told[key]) for key in ("base", "base_sha256", "dtype", "text"))
            reference = torch.tensor(told["reference"], dtype=torch.float32)
            if dtype not in ("float32", "bfloat16"):
                raise ValueError(f"dtype {dtype}")
        base = Base(path, "float32" if dtype == "float32" else "bfloat16")
        if base.hash != base_hash:
            raise BadInput(f"{folder}: was trained on other weights than {path} holds now; put those back")
        model = base.adapted(adapters)
        set_peft_model_state_dict(model, state)
        found = cls(base, model, adapters, text)
        found.reference = reference
        return found

    def _learnt(self) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: value.detach().cpu().contiguous().clone() for name, value in sorted(state.items())}
