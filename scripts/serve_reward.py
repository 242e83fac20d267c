"""Stage `serve-reward`: the same as ``rlhf-images serve-reward``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("serve-reward")
