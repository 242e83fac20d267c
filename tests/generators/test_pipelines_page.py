"""docs/pipelines.md says what is so."""

import pytest
from pipelines_page import BEGIN, END, PAGE, classes, table

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated")


def test_the_table_is_that_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == table(), "python tests/generators/pipelines_page.py writes it anew"
    assert shown.count("\n| `") == len(classes())
    assert "not tested" not in shown
