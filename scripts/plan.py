"""What a finetune config needs, before a weight is there: ``python scripts/plan.py CONFIG [--card h200 --gpus 64]``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("plan")
