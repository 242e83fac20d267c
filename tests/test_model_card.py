"""The model card: what the hub and diffusers read, and what goes to the hub and what stays."""

import json

import pytest
from hub_for_tests import TOKEN, hub_of, run_against
from huggingface_hub import ModelCard
from PIL import Image
from test_evaluate import PROMPTS, root

from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator, GeneratorConfig
from rlhf_images.generators.lora import load_trained
from rlhf_images.model_card import _plain, model_card

__all__ = ["root"]


def test_a_finished_run_has_a_card_with_numbers_pictures_and_the_way_to_use_it(root):
    run = root / "tuned"
    card = ModelCard.load(model_card(run))
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "text-to-image")
    assert "lora" in card.data.tags
    assert card.data.base_model is None  # a folder of this machine says nothing elsewhere
    rows = [line for line in card.text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]] == ["reward", "contrast", "diversity"]
    assert "No person has compared it" in card.text
    assert 'pipe.load_lora_weights("this repository")' in card.text
    pictures = [entry["output"]["url"] for entry in card.data.widget]
    assert pictures
    assert {entry["text"] for entry in card.data.widget} <= set(PROMPTS)
    for picture in pictures:
        assert f"({picture})" in card.text
        with Image.open(run / picture) as opened:
            assert opened.size == (512, 256)
    generator = Generator.load(GeneratorConfig(str(root / "plain"), steps=2, call={"max_sequence_length": 4}))
    load_trained(generator, run)  # as the card says: pipe.load_lora_weights(folder)


def test_what_somebody_added_to_the_front_matter_stays_and_tags_are_not_doubled(root):
    path = model_card(root / "tuned")
    card = ModelCard.load(path)
    card.data.license = "mit"
    card.data.tags.append("mine")
    card.save(path)
    again = ModelCard.load(model_card(root / "tuned"))
    assert again.data.license == "mit"
    assert sorted(again.data.tags) == sorted(set(again.data.tags))
    assert "mine" in again.data.tags
    assert again.text == card.text


def test_a_prompt_is_text_in_markdown_too():
    assert _plain("a](http://x) <img> `b`\n# |c|") == "a\\](http://x) &lt;img&gt; 'b' \\# \\|c\\|"


def test_a_run_that_has_not_ended_has_no_card(root, tmp_path):
    record = json.loads((root / "tuned/run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"finished": False}))
    with pytest.raises(BadInput, match="has finished"):
        model_card(tmp_path)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("public", [False, pytest.param(True, marks=pytest.mark.campaign)])
def test_the_hub_gets_the_weights_the_card_and_the_page_and_nothing_else(root, tmp_path, public):
    more = ["--public"] if public else []
    with hub_of("model") as hub:
        command = ["report", str(root / "tuned"), "--push-to-hub", "someone/picks", *more]
        ended = run_against(hub.url, command, tmp_path / "home")
    assert ended.returncode == 0, ended.stderr
    assert f"pushed to {hub.url}/someone/picks" in ended.stdout
    assert hub.created[0]["visibility"] == ("public" if public else "private")
    assert hub.tokens == {f"Bearer {TOKEN}"}
    folders = {name.split("/")[0] for name in hub.files}
    assert folders == {"README.md", "pytorch_lora_weights.safetensors", "best", "gallery", "report.html"}
    assert all((root / "tuned" / name).read_bytes() == data for name, data in hub.files.items())
