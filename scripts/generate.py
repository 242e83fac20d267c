"""Stage `generate`: the same as ``rlhf-images generate``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("generate")
