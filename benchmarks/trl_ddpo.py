"""One run of TRL's DDPOTrainer on the CPU; started by `against_trl` in TRL's own environment, with a JSON task.

Prints a JSON line an epoch: CPU seconds of training so far, pictures drawn for it, and the reward of the evaluation.
"""

import json
import sys
import tempfile
import time
import warnings

import torch
from accelerate import PartialState

PartialState(cpu=True)  # TRL's loggers ask for one when they are imported, and it must not look for a GPU
warnings.filterwarnings("ignore")
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline  # noqa: E402


def main() -> None:
    """Train for the task's epochs, or until the reward has gained enough."""
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    prompts = torch.Generator().manual_seed(task["seed"])
    pipeline = DefaultDDPOStableDiffusionPipeline(task["generator"], use_lora=True)
    config = DDPOConfig(
        num_epochs=task["epochs"],
        seed=task["seed"],
        save_freq=10**6,
        mixed_precision=None,
        allow_tf32=False,
        sample_num_steps=task["sampling_steps"],
        sample_eta=1.0,
        sample_guidance_scale=1.0,
        sample_batch_size=task["micro"],
        sample_num_batches_per_epoch=task["pictures"] // task["micro"],
        train_batch_size=task["micro"],
        train_gradient_accumulation_steps=task["pictures"] // task["micro"] // task["updates"],
        train_learning_rate=task["lr"],
        train_clip_range=task["clip"],
        train_cfg=False,
        per_prompt_stat_tracking=True,
        project_kwargs={"project_dir": tempfile.mkdtemp(), "automatic_checkpoint_naming": True},
    )

    def drawn():
        return task["prompts"][int(torch.randint(len(task["prompts"]), (), generator=prompts))], {}

    def rewarded(images, prompts, metadata):
        del prompts, metadata
        return images.float().mean((1, 2, 3)), {}

    # Without guidance TRL hands the U-Net the negative prompts too, twice as many as latents, and fails: mended for it.
    pipeline.sd_pipeline._encode_prompt = lambda *_, prompt_embeds, **__: prompt_embeds
    trainer = DDPOTrainer(config, rewarded, drawn, pipeline)
    before = evaluated(pipeline.sd_pipeline, task)
    print(json.dumps({"cpu_seconds": 0.0, "pictures": 0, "reward": before}), flush=True)
    spent, step = 0.0, 0
    for epoch in range(task["epochs"]):
        start = time.process_time()
        step = trainer.step(epoch, step)
        spent += time.process_time() - start
        if (epoch + 1) % task["every"] == 0:
            reward = evaluated(pipeline.sd_pipeline, task)
            row = {"cpu_seconds": spent, "pictures": (epoch + 1) * task["pictures"], "reward": reward}
            print(json.dumps(row), flush=True)
            if reward >= before + task["gain"]:
                break


@torch.no_grad()
def evaluated(pipe, task) -> float:
    """Return the mean reward of the same prompts and noise as on the other side, drawn along the ODE."""
    pipe.unet.eval()
    prompts = [prompt for prompt in task["prompts"] for _ in range(task["seeds_per_prompt"])]
    side = pipe.unet.config.sample_size
    shape = (len(prompts), pipe.unet.config.in_channels, side, side)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1000))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        prompt=prompts,
        latents=latents,
        num_inference_steps=task["sampling_steps"],
        guidance_scale=1.0,
        eta=0.0,
        output_type="pt",
    ).images
    pipe.set_progress_bar_config(disable=False, leave=False)
    return float(images.mean((1, 2, 3)).mean())


if __name__ == "__main__":
    main()
