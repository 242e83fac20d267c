"""Stage `choose`: the same as ``rlhf-images choose``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("choose")
