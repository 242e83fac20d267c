"""What a finetune run rests on, tried in a minute: ``python scripts/doctor.py CONFIG``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("doctor")
