"""The same as ``rlhf-images export-pairs``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("export-pairs")
