import gc
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads make a shared machine crawl

from hypothesis import HealthCheck, settings
from postgres_for_tests import postgres

__all__ = ["postgres"]

# A shared machine has slow moments; how long a test takes decides nothing.
slow = [HealthCheck.too_slow]
settings.register_profile("here", deadline=None, database=None, print_blob=True, suppress_health_check=slow)
settings.load_profile("here")


def pytest_collection_finish():
    """Spare the garbage collector what was imported: half a million objects that stay, and a tenth of the suite."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let the collector have it all again, or what was imported is told to be leaked."""
    gc.unfreeze()
