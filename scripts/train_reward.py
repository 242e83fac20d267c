"""Stage `train_reward`: the same as ``rlhf-images train-reward``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("train-reward")
