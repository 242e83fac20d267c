"""What the loop adds to the arithmetic: `finetune.learn` against the same step written out by hand.

python benchmarks/overhead.py [repeats] prints a table. It needs the demo's generator (rlhf-images pretrain
configs/digits/pretrain.yaml) and no more than two minutes. Both sides tune it with LoRA for a trivial reward: ours with
the whole machinery (any pipeline through its own call, numbers by global index, failures masked, groups, metrics), the
bare one with the transformer called directly, everything in two tensors and nothing checked. Interleaved, in process
CPU time, on one thread; each ratio is of two steps that ran next to each other, and their median is what counts. That
both ask the same of the transformer is counted, not assumed.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig as PeftConfig
from torch import Tensor

from rlhf_images import finetune
from rlhf_images.algorithms import GRPO, NFT, AnyAlgorithm
from rlhf_images.data import DIGIT_CAPTIONS
from rlhf_images.evaluator import EvaluationConfig
from rlhf_images.finetune_config import FinetuneConfig
from rlhf_images.generators import GeneratorConfig, bars_only_on_a_terminal
from rlhf_images.generators.lora import ATTENTION, LoraConfig
from rlhf_images.policy import OptimizerConfig
from rlhf_images.processes import Processes
from rlhf_images.prompt_statistics import PromptStatistics, StatisticsConfig
from rlhf_images.reward import FunctionReward
from rlhf_images.runs import Run

GENERATOR = Path("runs/demo/generator")
PROMPTS, GROUP, STEPS, UPDATES, TIMES, LR, RANK = 10, 8, 10, 2, 2, 1e-3, 16
NUMBER = PROMPTS * GROUP
SAMPLES = 100_000
TARGETS = {"ratio": 1.03, "milliseconds": 5.0}


def brightness(images: Tensor, prompts: Any = None) -> Tensor:
    """Return the reward of both sides."""
    del prompts
    return images.mean((1, 2, 3))


class Bare:
    """A step by hand: this pipeline alone, no more bookkeeping than the arithmetic needs."""

    def __init__(self) -> None:
        pipe: Any = StableDiffusion3Pipeline.from_pretrained(GENERATOR)
        self.transformer, self.vae = pipe.transformer, pipe.vae
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        with torch.no_grad():
            words, _, pooled, _ = pipe.encode_prompt(
                list(DIGIT_CAPTIONS), None, None, do_classifier_free_guidance=False, max_sequence_length=6
            )
        self.words, self.pooled = (e.repeat_interleave(GROUP, 0) for e in (words, pooled))
        config = PeftConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(ATTENTION), init_lora_weights="gaussian")
        self.transformer.add_adapter(config)
        self.trained = [p for p in self.transformer.parameters() if p.requires_grad]
        self.reference = [p.detach().clone() for p in self.trained]
        self.behaviour = [p.detach().clone() for p in self.trained]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LR, weight_decay=1e-4)
        pipe.scheduler.set_timesteps(STEPS)
        self.times = pipe.scheduler.sigmas
        self.step_number = 0

    def velocity(self, rows: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the transformer's word on the pictures ``rows``."""
        return self.transformer(
            hidden_states=x,
            timestep=1000 * t,
            encoder_hidden_states=self.words[rows],
            pooled_projections=self.pooled[rows],
            return_dict=False,
        )[0]

    @torch.no_grad()
    def velocity_of(self, weights: list[Tensor], rows: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return what other weights say."""
        current = [p.data for p in self.trained]
        for parameter, weight in zip(self.trained, weights, strict=True):
            parameter.data = weight
        answer = self.velocity(rows, x, t)
        for parameter, weight in zip(self.trained, current, strict=True):
            parameter.data = weight
        return answer

    @torch.no_grad()
    def compared(self, x0: Tensor) -> Tensor:
        """Return the advantages of finished latents."""
        decoded = self.vae.decode(x0 / self.vae.config.scaling_factor + self.vae.config.shift_factor).sample
        rewards = brightness((decoded / 2 + 0.5).clamp(0, 1)).view(PROMPTS, GROUP)
        return ((rewards - rewards.mean(1, keepdim=True)) / rewards.std(correction=0)).flatten()

    def descend(self, loss: Tensor) -> None:
        """Take an optimiser's step."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()

    def nft(self) -> None:
        """Take one step of DiffusionNFT."""
        everything, x = torch.arange(NUMBER), torch.randn(NUMBER, 1, 8, 8)
        for t, t_next in pairwise(self.times):
            x = x + (t_next - t) * self.velocity_of(self.behaviour, everything, x, t.expand(NUMBER))
        x0, r = x, (self.compared(x) / 5).clamp(-1, 1) / 2 + 0.5
        for part in torch.randperm(GROUP).chunk(UPDATES):
            rows = everything.view(PROMPTS, GROUP)[:, part].flatten()
            for_all = rows.repeat_interleave(TIMES)
            losses = []
            for chosen in for_all.split(NUMBER):
                clean, noise, t = x0[chosen], torch.randn(len(chosen), 1, 8, 8), torch.rand(len(chosen))
                s = t.view(-1, 1, 1, 1)
                noisy = (1 - s) * clean + s * noise
                old = noisy - s * self.velocity_of(self.behaviour, chosen, noisy, t)
                velocity = self.velocity(chosen, noisy, t)
                delta = noisy - s * velocity - old
                loss = 0.0
                for weight, side in ((r[chosen], old + delta), (1 - r[chosen], old - delta)):
                    scale = (side - clean).detach().abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
                    loss = loss + weight * ((side - clean) ** 2 / scale).mean((1, 2, 3))
                anchor = self.velocity_of(self.reference, chosen, noisy, t)
                losses.append((5 * loss + 1e-4 * ((velocity - anchor) ** 2).mean((1, 2, 3))).mean())
            self.descend(torch.stack(losses).mean())
        keep = min(1e-3 * self.step_number, 0.5)
        for copy, parameter in zip(self.behaviour, self.trained, strict=True):
            copy.lerp_(parameter.detach(), 1 - keep)
        self.step_number += 1

    def gaussian(self, velocity: Tensor, x: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std of Flow-GRPO's step ``number (B,)`` from x."""
        t, t_next = (self.times[n].view(-1, 1, 1, 1) for n in (number, number + 1))
        g = 0.7 * (t / (1 - torch.where(t >= 1, t_next, t))).sqrt()
        dt = t_next - t
        mean = x + velocity * dt + g**2 / (2 * t) * (x + (1 - t) * velocity) * dt
        return mean, g * (-dt).sqrt()

    def grpo(self) -> None:
        """Take one step of Flow-GRPO."""
        everything, x = torch.arange(NUMBER), torch.randn(NUMBER, 1, 8, 8)
        visited, means, stds = [x], [], []
        for number in range(STEPS):
            with torch.no_grad():
                velocity = self.velocity(everything, x, self.times[number].expand(NUMBER))
            if number < STEPS - 1:
                mean, std = self.gaussian(velocity, x, torch.full((NUMBER,), number))
                x = mean + std * torch.randn_like(x)
                means.append(mean)
                stds.append(std)
            else:
                x = x + (self.times[-1] - self.times[-2]) * velocity
            visited.append(x)
        advantage = self.compared(x).clamp(-5, 5)
        for part in torch.randperm(GROUP).chunk(UPDATES):
            rows = everything.view(PROMPTS, GROUP)[:, part].flatten()
            losses = []
            row, step = rows.repeat(STEPS - 1), torch.arange(STEPS - 1).repeat_interleave(len(rows))
            xs, mean_s, std_s = torch.stack(visited, 1), torch.stack(means, 1), torch.stack(stds, 1)
            for chosen, number in zip(row.split(NUMBER), step.split(NUMBER), strict=True):
                x, x_next, t = xs[chosen, number], xs[chosen, number + 1], self.times[number]
                mean, std = self.gaussian(self.velocity(chosen, x, t), x, number)
                old_mean = mean_s[chosen, number]
                z, old_z = (x_next - mean) / std, (x_next - old_mean) / std_s[chosen, number]
                ratio = ((old_z**2 - z**2).mean((1, 2, 3)) / 2).exp()
                free, held = -advantage[chosen] * ratio, -advantage[chosen] * ratio.clamp(1 - 1e-4, 1 + 1e-4)
                anchor, _ = self.gaussian(self.velocity_of(self.reference, chosen, x, t), x, number)
                kl = ((mean - anchor) ** 2 / (2 * std**2)).mean((1, 2, 3))
                losses.append((torch.maximum(free, held) + 4e-3 * kl).sum() / len(row))
            self.descend(torch.stack(losses).sum())


def ours(algorithm: AnyAlgorithm, folder: Path) -> tuple[Callable[[], None], Any]:
    """Return our step and the transformer that it trains."""
    config = FinetuneConfig(
        generator=GeneratorConfig(path=str(GENERATOR), steps=STEPS, call={"max_sequence_length": 6}),
        prompts="digits",
        reward="brightness",
        out=str(folder),
        evaluation=EvaluationConfig(prompts="digits"),
        prompts_per_step=PROMPTS,
        group_size=GROUP,
        updates_per_step=UPDATES,
        micro_size=NUMBER,
        algorithm=algorithm,
        lora=LoraConfig(rank=RANK, alpha=2 * RANK),
        optimizer=OptimizerConfig(lr=LR),
    )
    run = Run("finetune", config, config.out)
    parts = finetune._assembled(config, lambda _: FunctionReward(brightness), Processes(), run)
    numbers = iter(range(10**6))
    return lambda: finetune.learn(parts, next(numbers)) and None, parts.policy.generator.denoiser


def counted(step: Callable[[], None], transformer: Any) -> dict[str, int]:
    """Return how many pictures a step gives the transformer, with gradient and without."""
    seen = {"with gradient": 0, "without": 0}

    def look(module: Any, args: Any, kwargs: Any) -> None:
        del module, args
        seen["with gradient" if torch.is_grad_enabled() else "without"] += len(kwargs["hidden_states"])

    handle = transformer.register_forward_pre_hook(look, with_kwargs=True)
    step()
    handle.remove()
    return seen


def cpu_seconds(step: Callable[[], None]) -> float:
    """Return the CPU seconds of one call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def loop(name: str, algorithm: AnyAlgorithm, repeats: int, folder: Path) -> float:
    """Print a row of the table and return the median ratio."""
    bare = Bare()
    step, transformer = ours(algorithm, folder / name)
    by_hand = getattr(bare, name)
    step()  # the first also finds out whether the pipeline takes a time a picture
    asked = [counted(step, transformer), counted(by_hand, bare.transformer)]
    if asked[0] != asked[1]:
        raise SystemExit(f"{name}: the two sides do different work: {asked}")
    pairs = []
    for number in range(repeats):
        order = (step, by_hand) if number % 2 else (by_hand, step)
        spent = {which: cpu_seconds(which) for which in order}
        pairs.append((spent[step], spent[by_hand]))
    ratio = statistics.median(a / b for a, b in pairs)
    low, high = (sorted(a / b for a, b in pairs)[i] for i in (repeats // 4, -1 - repeats // 4))
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"| `{name}` | {theirs:.3f} | {mine:.3f} | **{ratio:.3f}** ({low:.3f} to {high:.3f}) |")
    return ratio


def advantage_milliseconds() -> dict[str, float]:
    """Return the CPU milliseconds of the advantages of `SAMPLES` scores in groups of `GROUP`, each way."""
    rewards = torch.randn(SAMPLES // GROUP, GROUP, generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(rewards).bool()
    found = {}
    for name, advantage in finetune.ADVANTAGES.items():
        advantage(rewards, valid)
        found[name] = statistics.median(cpu_seconds(lambda: advantage(rewards, valid)) for _ in range(20)) * 1e3  # noqa: B023
    return found


def remembering_milliseconds() -> float:
    """Return the CPU milliseconds of as many scores compared with a history of each prompt, which lives in Python."""
    known = PromptStatistics(StatisticsConfig())
    rewards = torch.randn(SAMPLES // GROUP, GROUP, generator=torch.Generator().manual_seed(0))
    prompts, valid = [f"prompt {i}" for i in range(len(rewards))], torch.ones_like(rewards).bool()
    return 1e3 * statistics.median(cpu_seconds(lambda: known.advantages(prompts, rewards, valid)) for _ in range(10))


def main() -> None:
    """Print the tables; leave with 1 where a target is missed."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bars_only_on_a_terminal()
    print(f"{repeats} interleaved repeats, {NUMBER} pictures a step, torch {torch.__version__}, one thread\n")
    print("| loop | bare, CPU s | ours, CPU s | ratio, median (quartiles) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        ratios = [loop(a.name, a, repeats, Path(folder)) for a in (NFT(times_per_image=TIMES), GRPO())]
    spent = advantage_milliseconds()
    print(f"\n| advantage of {SAMPLES:,} scores | CPU ms |\n|---|---|")
    print("\n".join(f"| `{name}` | {value:.2f} |" for name, value in spent.items()))
    print(f"| `per_prompt`, of {SAMPLES // GROUP:,} prompts (no target) | {remembering_milliseconds():.0f} |")
    missed = max(ratios) > TARGETS["ratio"] or max(spent.values()) > TARGETS["milliseconds"]
    print(f"\ntargets {TARGETS}: {'missed' if missed else 'met'}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
