"""Stage `report`: the same as ``rlhf-images report``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("report")
