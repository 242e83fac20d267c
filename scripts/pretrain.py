"""Stage `pretrain`: the same as ``rlhf-images pretrain``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("pretrain")
