"""Stage `evaluate` for any generators: pipelines, runs, checkpoints, LoRA files, on the same prompts and seeds."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from .config import Count
from .errors import BadInput
from .evaluate import STAGES, conclude, config_of, decided, draw, find_run
from .evaluator import EvaluationConfig, Evaluator
from .finetune_config import TuningConfig
from .generators import Generator, GeneratorConfig
from .generators.lora import ADAPTERS, load_trained
from .processes import Processes
from .progress import say
from .reference import adopt, kept
from .report.summary import summarise
from .reward import Reward, RewardSpec
from .runs import Run, elapsed, read_record


@final
@dataclass(frozen=True)
class EvaluateConfig:
    """Two generators or more, and how they are compared."""

    generators: dict[str, str]
    """Name → a pipeline (folder or hub name), a run of `finetune` or `dpo`, its ``best``, one of its
    ``evaluations/step_…`` (those of adapters keep their weights), or a LoRA file. The first is the base that the others
    are compared with."""
    out: str
    """Folder of the comparison."""
    evaluation: EvaluationConfig
    """The prompts, the seeds (``final_seeds_per_prompt``) and the judges; ``reward`` is that of the first run."""
    generator: GeneratorConfig | None = None
    """How they are called, and what a LoRA file is put on; by default as the first run among them says."""
    guidances: tuple[float, ...] = ()
    """Further guidances at which each of them is drawn, such as 1 and 4.5 for without and with."""
    micro_size: Count = 8
    """Pictures in one forward pass."""

    def __post_init__(self) -> None:
        """Refuse fewer than two, and names that a summary could not tell apart."""
        if len(self.generators) * (1 + len(self.guidances)) < 2:
            raise ValueError("generators: name two or more, or guidances, or there is nothing to compare")


@final
@dataclass(frozen=True)
class Source:
    """A generator that is not loaded yet: how it is called, and the weights put on it."""

    settings: GeneratorConfig
    weights: Path | None

    def load(self, prompts: list[str], device: object) -> Generator:
        """Return it loaded."""
        generator = Generator.load(self.settings, device)  # type: ignore[arg-type]
        generator.remember(prompts)
        if self.weights is not None:
            load_trained(generator, self.weights)
        return generator


def evaluate_generators(config: EvaluateConfig, load_reward: Callable[[RewardSpec], Reward]) -> None:
    """Draw, judge and compare; write the summary and the report to ``config.out``."""
    processes = Processes()
    tuned = [found for found in map(_run_of, config.generators.values()) if found is not None]
    inputs = sorted({str(folder) for folder, _ in tuned})
    run = Run("evaluate", config, config.out, inputs=inputs, writes=processes.is_main)
    if run.finished:
        return say(f"{config.out}: already evaluated; the page is {config.out}/report.html")
    sources = _sources(config, tuned)
    asked = config.evaluation
    if tuned and not asked.judges:
        asked = replace(asked, judges=tuned[0][1].evaluation.judges)
        asked = replace(asked, deciding=tuned[0][1].evaluation.deciding) if asked.deciding == "reward" else asked
    specs: dict[str, RewardSpec] = dict(asked.judges)
    if tuned and "reward" not in specs:
        specs = {"reward": tuned[0][1].reward, **specs}
    if not specs:
        raise BadInput("no judges: name one, such as evaluation.judges.legibility: legibility")
    judges = {name: load_reward(spec).to(processes.device) for name, spec in specs.items()}
    if tuned and "reward" in judges and specs["reward"] == tuned[0][1].reward:
        adopt(judges["reward"], kept(tuned[0][0]))
    held_out = [name for name in judges if name != "reward"]
    deciding = held_out[0] if asked.deciding == "reward" and held_out else asked.deciding
    evaluation = replace(asked, deciding=deciding)
    evaluator = Evaluator(evaluation, judges, processes, config.micro_size)
    say(f"drawing {len(evaluator.prompts)} prompts × {evaluation.final_seeds_per_prompt} seeds: {', '.join(sources)}")
    run.save(deciding=deciding)
    loaded = {name: partial(source.load, evaluator.prompts, processes.device) for name, source in sources.items()}
    drawn = draw(run.folder, run.folder, loaded, evaluator)
    summary = decided(summarise(drawn, deciding), "--deciding NAME, and another --out")
    summary["seconds"] = {"evaluate": round(elapsed(), 2)}
    run.save(finished=True)
    processes.written(partial(conclude, run.folder, summary, list(judges), tuple(drawn)))
    return None


def _sources(config: EvaluateConfig, tuned: list[tuple[Path, TuningConfig]]) -> dict[str, Source]:
    """Return what each name stands for, at each guidance."""
    common = config.generator or (tuned[0][1].generator if tuned else None)
    found = {name: _source(source, common, config.generator) for name, source in config.generators.items()}
    further = {
        f"{name}, guidance {guidance:g}": Source(replace(source.settings, guidance=guidance), source.weights)
        for guidance in config.guidances
        for name, source in found.items()
        if guidance != source.settings.guidance
    }
    return found | further


def _source(source: str, common: GeneratorConfig | None, told: GeneratorConfig | None) -> Source:
    """Return the generator that ``source`` names; raises `BadInput` for adapters of which nobody knows the pipeline."""
    path, run = Path(source), _run_of(source)
    if run is not None:
        settings = replace(told, path=run[1].generator.path) if told else run[1].generator
        if not _weights_in(path) and path.resolve() not in (run[0].resolve(), run[0].resolve().parent):
            raise BadInput(
                f"{source}: no weights were kept in it; name the run, its 'best' or an evaluation of adapters"
            )
        return Source(settings, path if _weights_in(path) else run[0])
    if path.suffix == ".safetensors" or _weights_in(path):
        if common is None:
            raise BadInput(f"{source}: a LoRA of which pipeline? Give 'generator.path', or a run among the generators")
        if not path.exists():
            raise BadInput(f"{source}: no such file")
        return Source(common, path)
    return Source(replace(common, path=source) if common else GeneratorConfig(source), None)


def _run_of(source: str) -> tuple[Path, TuningConfig] | None:
    """Return the tuning run that ``source`` is, holds or lies in, with its config; None for anything else."""
    path = Path(source)
    if not path.exists() or (path / "model_index.json").is_file():
        return None
    if path.is_dir() and ((path / "run.json").is_file() or any(path.glob("*/run.json"))):
        run, record = find_run(path)
        return run, config_of(run, record)
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / "run.json").is_file() and (record := read_record(place))["stage"] in STAGES:
            return place, config_of(place, record)
    return None


def _weights_in(path: Path) -> bool:
    """Return whether ``path`` is a LoRA file, or a folder with adapters or a denoiser of its own."""
    if path.is_file():
        return path.suffix == ".safetensors"
    if (path / "model_index.json").is_file():  # a pipeline of its own
        return False
    parts = ("transformer", "unet")
    return any((path / name).is_file() for name in ADAPTERS) or any((path / part).is_dir() for part in parts)


def prompts_of(sources: Iterable[str]) -> str | tuple[str, ...] | None:
    """Return the prompts by which the first finetune run among ``sources`` is evaluated; None where none is a run."""
    return next((run[1].evaluation.prompts for source in sources if (run := _run_of(source)) is not None), None)


def pairs_of(texts: list[str], option: str) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts of a command line as a mapping."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in found:
            raise BadInput(f"{option} {text}: expected NAME=VALUE, each name once")
        found[name] = value
    return found


def as_tree(values: dict[str, object]) -> dict[str, object]:
    """Return ``values`` as a config's plain tree, without those that were not given."""
    return json.loads(json.dumps({name: value for name, value in values.items() if value is not None}))  # type: ignore[no-any-return]
