import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads make a shared machine crawl

from hypothesis import settings
from postgres_for_tests import postgres

__all__ = ["postgres"]

settings.register_profile("here", deadline=None, database=None, print_blob=True)  # a shared machine has slow moments
settings.load_profile("here")
