"""The model card: what the hub and diffusers read, and what goes to the hub and what stays."""

import ast
import inspect
import json
from dataclasses import replace

import diffusers
import pytest
from diffusers import FluxPipeline, QwenImagePipeline, ZImagePipeline
from hub_for_tests import TOKEN, hub_of, run_against
from huggingface_hub import ModelCard
from PIL import Image
from test_evaluate import PROMPTS, root

from rlhf_images.errors import BadInput
from rlhf_images.generators import Generator, GeneratorConfig
from rlhf_images.generators.card import usage
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


def called(card_text: str, kind: type) -> dict:
    """Return the keywords by which a card calls a pipeline of class ``kind``, all of which it has."""
    (line,) = (line for line in card_text.splitlines() if line.startswith("pipe(prompt, "))
    call = ast.parse(line.removesuffix(".images[0]"), mode="eval").body
    found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert found.keys() <= inspect.signature(kind.__call__).parameters.keys()
    return found


def test_the_card_calls_the_pipeline_as_the_run_did(root, tmp_path):
    guided = GeneratorConfig(
        str(root / "plain"), steps=3, guidance=2.5, negative_prompt="grey", height=8, call={"max_sequence_length": 4}
    )
    text = usage(guided, tmp_path, lora=True)
    assert called(text, diffusers.StableDiffusion3Pipeline) == {
        "num_inference_steps": 3,
        "guidance_scale": 2.5,
        "negative_prompt": "grey",
        "height": 8,
        "max_sequence_length": 4,
    }
    assert "dtype=torch.float32)" in text
    assert "pipe.transformer = type(pipe.transformer).from_pretrained(" in usage(guided, tmp_path, lora=False)
    (tmp_path / "adapter_model.safetensors").touch()
    assert 'PeftModel.from_pretrained(pipe.transformer, "this repository")' in usage(guided, tmp_path, lora=True)
    gone = replace(guided, path=str(tmp_path / "gone"))
    assert "could not be read when this card was written" in usage(gone, tmp_path, lora=True)


DEV = (
    FluxPipeline,
    {"guidance_embeds": True},
    {"embedded_guidance": 3.5},
    {"guidance_scale": 3.5, "true_cfg_scale": 1.0},
)
Z = (ZImagePipeline, {}, {}, {"guidance_scale": 0.0})
QWEN = (QwenImagePipeline, {}, {"guidance": 4.0}, {"true_cfg_scale": 4.0, "negative_prompt": " "})


@pytest.mark.parametrize(("kind", "denoiser", "settings", "expected"), [DEV, Z, QWEN])
def test_the_card_knows_each_familys_own_guidance(tmp_path, kind, denoiser, settings, expected):
    parts = inspect.signature(kind.__init__).parameters
    network = {"FluxPipeline": "FluxTransformer2DModel", "ZImagePipeline": "ZImageTransformer2DModel"}
    name = network.get(kind.__name__, "QwenImageTransformer2DModel")
    index = {"_class_name": kind.__name__, **{part: [None, None] for part in parts if part != "self"}}
    index["transformer"] = ["diffusers", name]
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "transformer/config.json").write_text(json.dumps({"_class_name": name, **denoiser}))
    text = usage(GeneratorConfig(str(tmp_path), steps=9, dtype="bfloat16", **settings), tmp_path, lora=True)
    assert called(text, kind) == {"num_inference_steps": 9, **expected}
    assert "dtype=torch.bfloat16)" in text


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
