"""The documents: links lead somewhere, every algorithm has its page, and every config on one is accepted."""

import re
from pathlib import Path

import pytest

from rlhf_images import config as configs
from rlhf_images.algorithms import ALGORITHMS
from rlhf_images.finetune_config import FinetuneConfig

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {str(page.relative_to(DOCS)): page for page in sorted(DOCS.rglob("*.md"))}

REST = [
    "generator.path=anywhere",
    "prompts=prompts.txt",
    "reward=anything",
    "out=nowhere",
    "evaluation.prompts=prompts.txt",
]
"""What a run needs besides what a page shows."""


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page].read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [target for target in files if not (PAGES[page].parent / target).exists()] == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_page_whose_config_is_accepted(name, tmp_path):
    page = (DOCS / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
    (fragment,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / f"{name}.yaml"
    file.write_text(fragment, encoding="utf-8")
    assert isinstance(configs.load(FinetuneConfig, file, REST).algorithm, ALGORITHMS[name])


def test_the_table_names_every_algorithm():
    index = (DOCS / "algorithms" / "README.md").read_text(encoding="utf-8")
    assert [name for name in ALGORITHMS if f"[`{name}`]({name}.md)" not in index] == []
    assert index.count("<!-- measured:begin -->") == index.count("<!-- measured:end -->") == 1
