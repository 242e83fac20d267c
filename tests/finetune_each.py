"""Runs every fine-tuning config of a JSON list, one after the other: under `accelerate launch`, for the tests."""

import json
import sys
from pathlib import Path

from reward_models import load
from rlhf_images.config import build
from rlhf_images.finetune import finetune
from rlhf_images.finetune_config import FinetuneConfig

for values in json.loads(Path(sys.argv[1]).read_text()):
    finetune(build(FinetuneConfig, values, sys.argv[1]), load)
