"""Stage `label --compare`: pictures of two generators, checkpoints or runs, side by side and blind.

Which run drew which picture stands in the manifest (``pictures.jsonl``: ``settings.run``), and never on the page. A
pair's left picture is always of ``before``; the side of the screen is drawn for each person when it is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar, final

import torch

from .config import Count, build
from .data import encode
from .errors import BadInput, NonFinite
from .evaluate import config_of, find_run
from .finetune_config import TuningConfig
from .generators import Generator, GeneratorConfig
from .generators.lora import load_trained
from .preferences import Pairs, Picture, PreferencePair
from .preferences.pairs import picture_id
from .progress import progress, say
from .prompts import read_prompts
from .randomness import Randomness
from .runs import Run, read_record
from .sampling import sample

MICRO = 4
"""Pictures sampled at a time, where neither side is a run that says how many its card takes."""
T = TypeVar("T", "Draw", Picture)


@final
@dataclass(frozen=True)
class CompareConfig:
    """What is compared, and with how many pairs."""

    before: str
    """A folder of pairs written by `generate`, a finetune run, or a pipeline: a folder or a name on the hub."""
    after: str
    """The same."""
    out: str
    """Folder of the pairs."""
    same_seed: bool = False
    """Whether the two pictures of a pair begin with the same noise."""
    pairs: Count = 100
    """At most; spread evenly over the prompts."""
    prompts: str | None = None
    """``digits`` or a text file; by default those of the finetune run, or of the pictures that are there."""


@final
@dataclass(frozen=True)
class Draw:
    """A picture to be drawn: its random numbers are those of ``index`` under ``seed`` for ``purpose``."""

    prompt: str
    seed: int
    index: int
    purpose: str


@final
class Side:
    """One of the two that are compared: pictures that are there, or a generator that draws them."""

    def __init__(self, name: str) -> None:
        """Find out what ``name`` is; nothing is loaded yet. Raises `BadInput` for what cannot be compared."""
        self.name, path = name, Path(name)
        self.pairs = Pairs(path) if (path / "pairs.jsonl").is_file() else None
        self.tuned: Path | None = None
        self.finetune: TuningConfig | None = None
        if self.pairs is None and path.is_dir() and not (path / "model_index.json").is_file():
            self.tuned, record = find_run(path)
            self.finetune = config_of(self.tuned, record)

    @property
    def settings(self) -> GeneratorConfig | None:
        """Return how its generator is called, as far as its own record says."""
        if self.finetune is not None:
            return self.finetune.generator
        if self.pairs is not None and (self.pairs.folder / "run.json").is_file():
            record = read_record(self.pairs.folder)
            if record["stage"] == "generate":
                return build(GeneratorConfig, record["config"]["generator"], f"{self.name}/run.json")
        return None

    def there(self, pictures: Sequence[Picture]) -> Iterator[tuple[bytes, Picture]]:
        """Yield ``pictures`` of its folder with their bytes. Raises `BadInput` for a missing or corrupt one."""
        assert self.pairs is not None
        for picture in pictures:
            self.pairs.image(picture.id)
            data = (self.pairs.folder / "images" / f"{picture.id}.png").read_bytes()
            yield data, replace(picture, settings={**picture.settings, "run": self.name})

    def drawn(self, wanted: Sequence[Draw], other: "Side") -> Iterator[tuple[bytes, Picture]]:
        """Yield a picture for each ``wanted``; a pipeline alone is called as the ``other`` side's run says."""
        settings = self.settings or GeneratorConfig(self.name)
        if self.settings is None and other.settings is not None:
            settings = replace(other.settings, path=self.name)
        generator = Generator.load(settings, "cuda" if torch.cuda.is_available() else "cpu")
        if self.tuned is not None:
            load_trained(generator, self.tuned)
        generator.remember([draw.prompt for draw in wanted])
        note = {**asdict(settings), "run": self.name}
        micro = next((side.finetune.micro_size for side in (self, other) if side.finetune is not None), MICRO)
        parts = [
            list(part[start : start + micro])
            for part in (list(of_seed) for _, of_seed in groupby(wanted, key=lambda draw: (draw.seed, draw.purpose)))
            for start in range(0, len(part), micro)
        ]
        for part in progress(parts, f"draw {self.name}"):
            randomness, purpose = Randomness(part[0].seed), part[0].purpose
            prompts, index = [draw.prompt for draw in part], [draw.index for draw in part]
            images = sample(generator, prompts, index, randomness, micro, purpose=purpose).images
            if not bool(torch.isfinite(images).all()):
                raise NonFinite(f"{self.name}: a drawn picture is not finite; try another dtype in its config")
            for draw, image in zip(part, images, strict=True):
                data = encode(image)
                yield data, Picture(picture_id(data), draw.prompt, draw.seed, draw.index, note)


def beside(before: str, after: str) -> str:
    """Return where the comparison of two runs lies if nothing else is said: beside ``after``."""
    names = [Path(name.rstrip("/")).name for name in (after, before)]
    parent = Path(after).parent if Path(after).exists() else Path("runs")
    return str(parent / f"{names[0]}-against-{names[1]}")


def compare(config: CompareConfig) -> Path:
    """Write the folder of pairs that compares two runs, or find it there already; return it."""
    if config.before == config.after:
        raise BadInput(f"--compare {config.before} {config.after}: the same twice; give two")
    before, after = Side(config.before), Side(config.after)
    there = [side.name for side in (before, after) if side.pairs is not None]
    if there and config.prompts is not None:
        raise BadInput(f"--prompts {config.prompts}: {there[0]} has its pictures, and their prompts; leave it out")
    run = Run("compare", config, config.out, inputs=[str(side.tuned or side.name) for side in (before, after)])
    if run.finished:
        return run.folder
    sides = _sides(before, after, config)
    run.save()
    two = _Two(sides)
    made = Pairs.create(run.folder, two.images(), two.pairs())
    if two.same:
        say(f"{two.same} pairs left out: their two pictures are the same")
    run.save(finished=True, pairs=len(made.pairs))
    say(f"{len(made.pairs)} pairs in {run.folder}")
    return run.folder


@final
class _Two:
    """Two sides as they are written: pictures first, then the pairs of one side's n-th with the other's."""

    def __init__(self, sides: Sequence[Iterator[tuple[bytes, Picture]]]) -> None:
        self.sides = sides
        self.same = 0
        self._shown: list[list[tuple[str, str]]] = [[], []]

    def images(self) -> Iterator[tuple[bytes, Picture]]:
        for side, shown in zip(self.sides, self._shown, strict=True):
            for data, picture in side:
                shown.append((picture.prompt, picture.id))
                yield data, picture

    def pairs(self) -> Iterator[PreferencePair]:
        for number, ((prompt, left), (_, right)) in enumerate(zip(*self._shown, strict=True)):
            if left == right:
                self.same += 1
            else:
                yield PreferencePair(f"{number:06d}", prompt, left, right)
        if self.same == len(self._shown[0]):
            raise BadInput("the two drew the same pictures: nothing to compare")


def _sides(before: Side, after: Side, config: CompareConfig) -> list[Iterator[tuple[bytes, Picture]]]:
    """Return the pictures of both sides, in the same order of prompts, before any is read or drawn."""
    if before.pairs is not None and after.pairs is not None:
        first, second = _matched(before.pairs, after.pairs, config)
        return [before.there(first), after.there(second)]
    apart = 0 if config.same_seed else 1
    if before.pairs is None and after.pairs is None:
        wanted = _wanted(before, after, config)
        return [before.drawn(wanted, after), after.drawn([_moved(draw, apart) for draw in wanted], before)]
    there = before if before.pairs is not None else after
    assert there.pairs is not None
    pictures = _evenly(list(there.pairs.pictures.values()), config.pairs)
    draws = [Draw(p.prompt, p.seed + apart, p.index, "sample") for p in pictures]
    if there is before:
        return [before.there(pictures), after.drawn(draws, before)]
    return [before.drawn(draws, after), after.there(pictures)]


def _matched(before: Pairs, after: Pairs, config: CompareConfig) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures of two folders that belong together: of one prompt and (same seed) of the same noise."""

    def keyed(pairs: Pairs) -> dict[tuple[str, int, int], Picture]:
        counts: dict[str, int] = {}
        found: dict[tuple[str, int, int], Picture] = {}
        for picture in sorted(pairs.pictures.values(), key=lambda picture: (picture.seed, picture.index)):
            counts[picture.prompt] = counts.get(picture.prompt, -1) + 1
            nth = (picture.seed, picture.index) if config.same_seed else (0, counts[picture.prompt])
            found[picture.prompt, *nth] = picture
        return found

    ours, theirs = keyed(before), keyed(after)
    common = [key for key in ours if key in theirs]
    if not common:
        how = "of the same prompt, seed and index; without --same-seed the prompt is enough"
        raise BadInput(
            f"{config.before} and {config.after}: no two pictures {how if config.same_seed else 'of the same prompt'}"
        )
    if len(common) < len(ours) or len(common) < len(theirs):
        say(f"{len(common)} pictures have a counterpart, of {len(ours)} and {len(theirs)}")
    first = _evenly([ours[key] for key in common], config.pairs)
    key_of = {id(ours[key]): key for key in common}
    return first, [theirs[key_of[id(picture)]] for picture in first]


def _wanted(before: Side, after: Side, config: CompareConfig) -> list[Draw]:
    """Return what two generators are to draw, with numbers that no training has drawn."""
    run = after.finetune or before.finetune
    if config.prompts is None and run is None:
        raise BadInput(f"--compare {config.before} {config.after}: neither knows prompts; give --prompts FILE")
    source = config.prompts or (run.evaluation.prompts if run else "")
    prompts, seed = read_prompts(source), run.evaluation.seed if run else 1000
    each = -(-config.pairs // len(prompts))
    draws = [Draw(prompt, seed, i * each + k, "evaluation") for i, prompt in enumerate(prompts) for k in range(each)]
    return _evenly(draws, config.pairs)


def _moved(draw: Draw, by: int) -> Draw:
    return replace(draw, seed=draw.seed + by)


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of ``items``, as many of each prompt as the others have, in their order."""
    nth: dict[str, int] = {}
    rounds = []
    for place, item in enumerate(items):
        nth[item.prompt] = nth.get(item.prompt, -1) + 1
        rounds.append((nth[item.prompt], place))
    return [items[place] for place in sorted(place for _, place in sorted(rounds)[:count])]
