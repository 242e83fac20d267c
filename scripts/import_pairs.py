"""The same as ``rlhf-images import-pairs``."""

from rlhf_images.cli import stage

if __name__ == "__main__":
    stage("import-pairs")
