"""Reward models: what scores pictures. Add one by writing its file and its line in `REWARDS`.

Reading order: `bold` (a taste in a page), `legibility` (the judge), `preference` (what is trained), `train` (how).
This package imports `rlhf_images`; `rlhf_images` never imports it.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from rlhf_images.errors import BadInput
from rlhf_images.reward import FunctionReward, Reward


def _bold() -> Reward:
    from .bold import Bold

    return Bold()


def _legibility() -> Reward:
    from .legibility import Legibility

    return Legibility()


REWARDS: dict[str, Callable[[], Reward]] = {
    "bold": _bold,
    "legibility": _legibility,
}
"""Rewards by name. Each is imported when it is first asked for."""


def load(spec: str) -> Reward:
    """Return the reward that ``spec`` names.

    ``spec`` is a name of `REWARDS`, a folder written by ``train-reward``, or ``package.module:attribute`` of a file
    that can be imported, from the current directory too: a `Reward`, a class or a function without arguments that gives
    one, or a function ``(images (B, 3, H, W), prompts) -> (B,)``.
    """
    if spec in REWARDS:
        return REWARDS[spec]()
    if Path(spec).is_dir():
        from .preference import PreferenceModel

        return PreferenceModel.load(spec)
    module, colon, attribute = spec.partition(":")
    if colon and attribute.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return _as_reward(spec, _imported(spec, module, attribute))
    near = difflib.get_close_matches(spec, REWARDS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(REWARDS)}"
    raise BadInput(f"reward '{spec}': no such name, folder of train-reward or package.module:attribute; {hint}")


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


def _as_reward(spec: str, found: object) -> Reward:
    if isinstance(found, Reward):
        return found
    if not callable(found):
        raise BadInput(f"reward '{spec}': is a {type(found).__name__}, neither a Reward nor a function")
    if not inspect.isclass(found) and _required_arguments(found) > 0:
        return FunctionReward(found)
    try:
        made = found()
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
