"""Stage `dpo`, for accelerate: ``accelerate launch scripts/dpo.py CONFIG key.sub=value …``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("dpo")
