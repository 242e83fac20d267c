"""Stage `label`: the same as ``rlhf-images label``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("label")
