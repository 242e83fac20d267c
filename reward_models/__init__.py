"""Reward models: what scores pictures. Add one by writing its file and its line in `REWARDS`.

Reading order: `bold` (a taste in a page), `legibility` (the judge), `preference` (what is trained), `family` and
`train` (how), `combine` (several at once). This package imports `rlhf_images`; `rlhf_images` never imports it.
"""

import difflib
import importlib
import inspect
import json
import operator
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from rlhf_images.errors import BadInput, Stop
from rlhf_images.reward import FunctionReward, Reward, RewardSpec

REWARDS: dict[str, str] = {
    # programmatic: exact, nothing to download
    "brightness": "reward_models.pixels:PixelStatistic@brightness",
    "contrast": "reward_models.pixels:PixelStatistic@contrast",
    "saturation": "reward_models.pixels:PixelStatistic@saturation",
    "sharpness": "reward_models.pixels:PixelStatistic@sharpness",
    "high_frequency": "reward_models.pixels:PixelStatistic@high_frequency",
    "jpeg_compressibility": "reward_models.compressibility:JpegSize.compressible",
    "jpeg_incompressibility": "reward_models.compressibility:JpegSize.incompressible",
    "palette": "reward_models.composition:Palette",
    "symmetry": "reward_models.composition:Symmetry",
    "diversity": "reward_models.diversity:Diversity",
    # published scorers: their weights behind the @, or from the hub's cache
    "aesthetic": "reward_models.aesthetic:Aesthetic.load",
    "clip_score": "reward_models.clip_score:ClipScore.load",
    "clip_similarity": "reward_models.clip_score:ClipSimilarity.load",
    "hpsv2": "reward_models.hpsv2:HPSv2.load",
    "hpsv2_1": "reward_models.hpsv2:HPSv2.load_2_1",
    "image_reward": "reward_models.image_reward:ImageReward.load",
    "pickscore": "reward_models.pickscore:PickScore.load",
    # in another process, environment or machine: remote@http://127.0.0.1:8720
    "remote": "reward_models.remote:Remote.load",
    # a vision-language model that is asked: judge@FILE.yaml
    "judge": "reward_models.judge:load",
    # the demo's
    "bold": "reward_models.bold:Bold",
    "legibility": "reward_models.legibility:Legibility",
}
"""Rewards by name, each imported when it is first asked for; in ``name@argument`` the argument is given to it."""

FORMATS: dict[str, str] = {
    "rlhf-images preference model 1": "reward_models.preference:PreferenceModel.load",
    "rlhf-images head 1": "reward_models.head:Head.load",
    "rlhf-images clip 1": "reward_models.clip_preference:ClipPreference.load",
    "rlhf-images vision-language 1": "reward_models.vision_language:VisionLanguage.load",
    "rlhf-images checklist 1": "reward_models.train_checklist:load",
}
"""What reads a folder of ``train-reward``, by the ``format`` of its reward.json."""


def load(spec: RewardSpec) -> Reward:
    """Return the reward that ``spec`` names.

    ``spec`` is a name of `REWARDS`, a folder written by ``train-reward``, or ``package.module:attribute`` of a file
    that can be imported, from the current directory too: a `Reward`, a class or a function without arguments that gives
    one, or a function ``(images (B, 3, H, W), prompts) -> (B,)``. Behind a name or an attribute, ``@argument`` is
    handed to the class or function that makes the reward.

    A list of those is an ensemble; a mapping of them to weights is their weighted sum, each normalised: see `combine`.
    """
    if isinstance(spec, dict):
        from .combine import Weighted

        return Weighted({name: (load(name), weight) for name, weight in spec.items()})
    if not isinstance(spec, str):
        from .combine import Ensemble

        return Ensemble([load(name) for name in spec])
    if not spec.strip():
        raise BadInput(f"an empty name for a reward; known: {', '.join(REWARDS)}")
    name, at, given = spec.partition("@")
    argument = given if at else None
    if name in REWARDS:
        path, fixed, own = REWARDS[name].partition("@")
        if fixed and at:
            raise BadInput(f"reward '{spec}': takes nothing behind '@'")
        return _made(spec, _found(path), own if fixed else argument)
    if Path(spec).is_dir():
        return _made(spec, _found(FORMATS.get(_format(Path(spec)), next(iter(FORMATS.values())))), spec)
    module, colon, attribute = name.partition(":")
    named = colon and attribute.isidentifier() and not module.endswith(".py")
    if named and all(part.isidentifier() for part in module.split(".")):
        return _as_reward(spec, _imported(spec, module, attribute), argument)
    raise BadInput(f"reward '{spec}': no such name, folder of train-reward or package.module:attribute; {_hint(name)}")


def _hint(name: str) -> str:
    """Return what may have been meant by a ``name`` that is none."""
    if name.startswith(("http://", "https://")):
        return f"did you mean 'remote@{name}'?"
    if name.endswith((".yaml", ".yml")):
        return f"did you mean 'judge@{name}'?"
    module, file, attribute = name.partition(".py:")
    if file:
        return f"did you mean '{module.removeprefix('./').replace('/', '.')}:{attribute}'?"
    beside = [str(path.parent) for path in sorted(Path(name).parent.glob("*/reward.json"))]
    known, cutoff = (beside, 0.75) if "/" in name else ([*REWARDS, *beside], 0.5)
    if near := difflib.get_close_matches(name, known, n=1, cutoff=cutoff):
        return f"did you mean '{near[0]}'?"
    return "'train-reward' makes such a folder" if "/" in name else f"known: {', '.join(REWARDS)}"


def placed(spec: RewardSpec) -> Reward:
    """Return the reward that ``spec`` names, as `load` does, on the GPU if there is one."""
    return load(spec).to("cuda" if torch.cuda.is_available() else "cpu")


def _format(folder: Path) -> str:
    """Return the format of a model's folder, or nothing where it cannot be read: the default reader says why."""
    try:
        return str(json.loads((folder / "reward.json").read_text(encoding="utf-8"))["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _found(path: str) -> Callable[..., object]:
    """Return what ``module:attribute`` of our own tables names."""
    module, _, attribute = path.partition(":")
    found: Callable[..., object] = operator.attrgetter(attribute)(importlib.import_module(module))
    return found


def _imported(spec: str, module: str, attribute: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a file of the user must not shadow an installed package
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a user's file can fail in any way
        raise BadInput(f"reward '{spec}': cannot import '{module}' ({type(error).__name__}: {_line(error)})") from error
    if not hasattr(found, attribute):
        near = difflib.get_close_matches(attribute, dir(found), n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise BadInput(f"reward '{spec}': '{module}' has no '{attribute}'{hint}")
    return getattr(found, attribute)


def _as_reward(spec: str, found: object, argument: str | None) -> Reward:
    if isinstance(found, Reward) and argument is None:
        return found
    if isinstance(found, Reward) or not callable(found):
        kind = "Reward that takes nothing behind '@'" if isinstance(found, Reward) else type(found).__name__
        raise BadInput(f"reward '{spec}': is a {kind}, neither a Reward nor a function")
    if argument is None and not inspect.isclass(found) and _required_arguments(found) > 0:
        return FunctionReward(found)
    return _made(spec, found, argument)


def _made(spec: str, maker: Callable[..., object], argument: str | None) -> Reward:
    """Return the reward that ``maker`` gives, with ``argument`` if there is one."""
    arguments = () if argument is None else (argument,)
    try:
        inspect.signature(maker).bind(*arguments)
    except (TypeError, ValueError):
        asked = next(iter(inspect.signature(maker).parameters), "argument").upper()
        wanted = "takes nothing behind '@'" if arguments else f"needs an argument: {spec}@{asked}"
        raise BadInput(f"reward '{spec}': {wanted}") from None
    try:
        made = maker(*arguments)
    except Stop:
        raise
    except Exception as error:  # a user's code can fail in any way
        raise BadInput(f"reward '{spec}': cannot be made ({type(error).__name__}: {_line(error)})") from error
    if not isinstance(made, Reward):
        raise BadInput(f"reward '{spec}': gives a {type(made).__name__}, not a Reward")
    return made


def _required_arguments(function: Callable[..., object]) -> int:
    """Return how many positional arguments ``function`` needs; two where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    named = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return sum(parameter.kind in named and parameter.default is parameter.empty for parameter in parameters)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
