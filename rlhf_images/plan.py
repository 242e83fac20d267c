"""`plan`: whether a run fits, how long a step takes and what bounds it, before a weight is downloaded.

A `Rehearsal` counts; here are the sums. Every figure says where it comes from: *counted* (from the modules, by the
loop's own code), *computed* (from counted ones), *data sheet*, *assumed* (a rule of thumb) or *measured* (here, now).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch

from .cards import BETWEEN_MACHINES, DISK, GB, Card
from .checkpoint import KEPT
from .config import Count
from .errors import BadInput
from .finetune_config import FinetuneConfig
from .meter import Work
from .rehearsal import Rehearsal, rehearse
from .reward import Reward, RewardSpec

NUMBER = 4
"""Bytes of what is trained, of its gradients, moments and snapshots: float32."""
MOMENTS = 2
"""Of AdamW."""
CARDS_A_MACHINE = 8


@final
@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    value: str = ""
    source: str = ""


@final
@dataclass(frozen=True)
class Stage:
    """A part of a step, of all its pictures."""

    name: str
    work: Work
    times: float
    """How often ``work`` is done in a step, on one process."""


@final
@dataclass(frozen=True)
class Plan:
    """The sums of one config on ``processes`` cards."""

    config: FinetuneConfig
    card: Card
    processes: Count
    rehearsal: Rehearsal

    @property
    def pictures(self) -> int:
        """Return the pictures of a step."""
        return self.config.prompts_per_step * self.config.group_size

    @property
    def share(self) -> int:
        """Return the pictures of a step on the process that has most."""
        return -(-self.pictures // self.processes)

    def stages(self) -> list[Stage]:
        """Return what one process does in a step."""
        r = self.rehearsal
        batches = self.share / r.micro
        found = [Stage("sampling", r.sampling, batches), Stage("decoding", r.decoding, batches)]
        if r.scoring is not None:
            found.append(Stage("scoring", r.scoring, batches))
        return [*found, Stage("learning", r.learning, self.share * r.examples_per_picture / r.learnt)]

    @property
    def flops(self) -> float:
        """Return the FLOPs of a step on one process."""
        return sum(stage.work.flops * stage.times for stage in self.stages())

    def seconds(self, *, eager: bool) -> dict[str, float]:
        """Return the seconds of each stage: at the card's matmul rate, or operation by operation, without fusion."""
        bounds = (self.card.bandwidth, self.card.launch) if eager else (0.0, 0.0)
        times = {stage.name: stage.work.seconds(self.card.rate, *bounds) * stage.times for stage in self.stages()}
        return {**times, "gradients": self.gradient_bytes() / self.slowest_link} if self.processes > 1 else times

    @property
    def slowest_link(self) -> float:
        """Return the bytes/s of the slowest connection that the gradients cross."""
        return min(self.card.link, BETWEEN_MACHINES) if self.processes > CARDS_A_MACHINE else self.card.link

    def gradient_bytes(self) -> float:
        """Return the bytes that one process sends (and receives) in a step: a ring's 2·(n − 1)/n of the gradients."""
        share = 2 * (self.processes - 1) / self.processes
        return self.config.updates_per_step * share * NUMBER * (self.rehearsal.trained + 1)

    def memory(self) -> dict[str, float]:
        """Return the bytes of each part on one card, at the moment when most is needed."""
        r, generator, size = self.rehearsal, self.config.generator, NUMBER * self.rehearsal.trained
        away = (
            {name for name in r.weights if name.startswith("text_encoder")}
            if generator.text_encoders != "keep"
            else set()
        )
        away |= {"vae", "movq"} if generator.offload_vae else set()
        resident = {f"weights: {name}": bytes_ for name, bytes_ in r.weights.items() if name not in away}
        held = self.share * r.picture
        examples = self.share * r.examples_per_picture * r.example * (1 + 1 / self.config.updates_per_step)
        reduced = 2 * size if self.processes > 1 else 0  # the flat copy that is summed, and its answer
        moments = size if self.card.half and not self.card.measured else 0  # AdamW's, one for all on an accelerator
        learning = examples + max(r.learning_peak, reduced, moments)
        return {
            **resident,
            "weights: reward": r.reward,
            "trained": size,
            "gradients": size,
            "optimiser": MOMENTS * size,
            **({f"snapshots: {', '.join(r.snapshots)}": len(r.snapshots) * size} if r.snapshots else {}),
            "pictures and latents of a step": held,
            **(
                {"examples": examples, "activations": learning - examples}
                if learning > max(r.sampling_peak, held)
                else {"sampling": max(r.sampling_peak, held)}
            ),
        }

    @property
    def checkpoint(self) -> int:
        """Return the bytes of a checkpoint: weights, moments and snapshots."""
        return (1 + MOMENTS + len(self.rehearsal.snapshots)) * NUMBER * self.rehearsal.trained

    @property
    def source(self) -> str:
        """Return where the card's figures come from."""
        return "measured" if self.card.measured else "data sheet"

    @property
    def fits(self) -> bool:
        """Return whether the memory suffices."""
        return sum(self.memory().values()) <= self.card.memory


def plan(config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward], card: Card, processes: int) -> Plan:
    """Return the plan of ``config`` on ``processes`` cards."""
    return Plan(config, card, processes, rehearse(config, load_reward, cpu=card.cpu))


def changes(made: Plan, load_reward: Callable[[RewardSpec], Reward]) -> list[str]:
    """Return what to change, each with the bytes that it leaves a card to need, until it fits; nothing if it does."""
    found: list[str] = []
    config = made.config
    options: list[tuple[str, FinetuneConfig]] = []
    generator = config.generator
    if generator.text_encoders == "keep":
        generator = replace(generator, text_encoders="offload")
        options.append(("generator.text_encoders: offload", replace(config, generator=generator)))
    if not generator.offload_vae:
        generator = replace(generator, offload_vae=True)
        options.append(("generator.offload_vae: true", replace(config, generator=generator)))
    size = config.micro_size
    while size > 1:
        size //= 2
        options.append((f"micro_size: {size}", replace(config, generator=generator, micro_size=size)))
    if not generator.recompute_activations:
        generator = replace(generator, recompute_activations=True)
        options.append(("generator.recompute_activations: true", replace(config, generator=generator, micro_size=size)))
    for name, changed in options:
        if made.fits:
            return found
        counted_anew = changed.micro_size != made.config.micro_size or changed.generator.recompute_activations
        try:
            rehearsal = rehearse(changed, load_reward, cpu=made.card.cpu) if counted_anew else made.rehearsal
        except BadInput:  # a network that cannot recompute
            continue
        made = replace(made, config=changed, rehearsal=rehearsal)
        found.append(f"{name}: {_bytes(sum(made.memory().values()))} a card")
    if not made.fits:
        found.append("a card with more memory" if config.lora is not None else "lora: adapters instead of all weights")
    return found


def table(made: Plan) -> list[Row]:
    """Return the plan as lines to read."""
    return [*_arithmetic(made), *_memory(made), *_time(made), *_keeping(made)]


def text(rows: list[Row]) -> str:
    """Return ``rows`` in columns; what is said in words takes a line of its own."""
    widths = [max(len(getattr(row, column)) for row in rows if row.value) for column in ("name", "value")]
    return "\n".join(f"{row.name:{widths[0]}}  {row.value:>{widths[1]}}  {row.source}".rstrip() for row in rows)


def _arithmetic(made: Plan) -> list[Row]:
    r, config = made.rehearsal, made.config
    per_picture = [(stage.name, stage.work.flops * stage.times / made.share) for stage in made.stages()]
    details = {
        "sampling": f" ({config.generator.steps} steps)",
        "learning": f" ({r.examples_per_picture:g} examples, forward and backward)",
    }
    return [
        Row("FLOPs of one picture"),
        Row("  one prediction of the denoiser", _tera(r.prediction.flops), "counted"),
        *(Row(f"  {name}{details.get(name, '')}", _tera(flops), "counted") for name, flops in per_picture),
        Row("  in all", _tera(made.flops / made.share), "computed"),
        Row("  once a prompt: the text encoders", _tera(r.encoding.flops), "counted"),
        *(Row(f"  assumed: {assumption}") for assumption in r.assumptions),
    ]


def _memory(made: Plan) -> list[Row]:
    memory = made.memory()
    total = sum(memory.values())
    verdict = "fits" if made.fits else "DOES NOT FIT"
    return [
        Row(f"memory of one card ({made.share} pictures a step, {made.config.micro_size} at a time)"),
        *(Row(f"  {name}", _bytes(size), "counted") for name, size in memory.items() if size),
        Row("  in all", _bytes(total), "computed"),
        Row(f"  the card's: {verdict}", _bytes(made.card.memory), made.source),
    ]


def _time(made: Plan) -> list[Row]:
    best, eager = (made.seconds(eager=eager) for eager in (False, True))
    wholes = [sum(times.values()) for times in (best, eager)]
    card = made.card
    rates = {
        name: f"{card.rate(dtype) / 1e12:.3g}" for name, dtype in (("half", torch.bfloat16), ("single", torch.float32))
    }
    return [
        Row(f"a step of {made.pictures} pictures on {made.processes} × {card.name}", "at best / one by one"),
        *(Row(f"  {name}", f"{best[name]:.3g} / {eager[name]:.3g} s", "computed") for name in best),
        Row("  in all", f"{wholes[0]:.3g} / {wholes[1]:.3g} s", "computed"),
        Row("  pictures a second", " / ".join(f"{made.pictures / whole:.3g}" for whole in wholes), "computed"),
        Row(
            f"  the run's {made.config.steps} steps, without evaluations",
            " / ".join(_duration(made.config.steps * whole) for whole in wholes),
            "computed",
        ),
        Row("  matrix products, bfloat16 / float32", f"{rates['half']} / {rates['single']} TFLOP/s", made.source),
        Row("  memory", f"{card.bandwidth / 1e12:.3g} TB/s", made.source),
        Row("  an operation takes at least", f"{card.launch * 1e6:.2g} µs", "measured" if card.measured else "assumed"),
    ]


def _keeping(made: Plan) -> list[Row]:
    r = made.rehearsal
    rows = [
        Row("what is kept and sent"),
        Row("  trained", f"{r.trained / 1e6:.4g} M numbers", "counted"),
        Row("  a checkpoint", _bytes(made.checkpoint), "counted"),
        Row(f"  disk for {KEPT} of them and the one being written", _bytes((KEPT + 1) * made.checkpoint), "computed"),
        Row(f"  writing one at {DISK / GB:g} GB/s", f"{made.checkpoint / DISK:.2g} s", "assumed"),
    ]
    if made.processes > 1:
        rows.append(Row("  gradients that a card sends in a step", _bytes(made.gradient_bytes()), "computed"))
        rows.append(Row("  the slowest link", f"{made.slowest_link / GB:g} GB/s", "assumed"))
    return rows


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds:.3g} s"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.4g} TFLOP" if flops >= 1e9 else f"{flops / 1e6:.4g} MFLOP"


def _bytes(size: float) -> str:
    return f"{size / GB:.3g} GB" if size >= GB / 100 else f"{size / 1e6:.3g} MB"
