from collections.abc import Iterator

import pytest
from chromium import BINARY, Chromium
from rounds import SECRET, made_round

from rlhf_images.preferences import Pairs


@pytest.fixture
def pairs(tmp_path) -> Pairs:
    return made_round(tmp_path / f"pairs-of-{SECRET}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    if BINARY is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with Chromium() as chromium:
        yield chromium
