"""``python -m rlhf_images`` is the command ``rlhf-images``."""

from .cli import main

if __name__ == "__main__":
    main()
