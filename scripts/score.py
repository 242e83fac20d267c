"""Stage `score`: the same as ``rlhf-images score``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("score")
