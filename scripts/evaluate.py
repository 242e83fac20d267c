"""Stage `evaluate`: the same as ``rlhf-images evaluate``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("evaluate")
