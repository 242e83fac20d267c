"""Stage `loop`: the same as ``rlhf-images loop``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("loop")
