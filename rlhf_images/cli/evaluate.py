"""``evaluate``: base against tuned, or any generators against the first of them."""

import argparse
from pathlib import Path

from .. import config as configs
from ..errors import BadInput
from . import Stages

EXAMPLE = """\
examples:
  rlhf-images evaluate runs/demo
  rlhf-images evaluate --generators base=runs/demo/generator tuned=runs/demo/tuned early=runs/demo/tuned/best \\
      other=their_lora.safetensors --prompts prompts.tsv --judges clip=clip_similarity@my_clip --out runs/four
  rlhf-images evaluate four.yaml evaluation.final_seeds_per_prompt=8"""


def add(stages: Stages) -> None:
    """Add the command."""
    evaluate = stages.add_parser(
        "evaluate",
        help="base against tuned, or any generators: report and summary",
        description="Base against tuned, or any generators against the first of them.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("what", nargs="?", help="a finetune run, the folder that holds it, or a YAML of generators")
    evaluate.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the YAML")
    several = evaluate.add_argument_group("any generators")
    several.add_argument(
        "--generators",
        nargs="+",
        metavar="NAME=SOURCE",
        help="the base first: a pipeline, a finetune run, its best or evaluations/step_…, or a LoRA file",
    )
    several.add_argument(
        "--prompts", metavar="FILE", help="text, JSON, JSON lines, CSV or TSV; or digits (default: the run's)"
    )
    several.add_argument("--judges", nargs="+", metavar="NAME=REWARD", help="what scores the pictures")
    several.add_argument("--deciding", metavar="NAME", help="the judge whose preference is a win")
    several.add_argument("--seeds", type=int, metavar="N", help="pictures of each prompt (default: 24)")
    several.add_argument("--guidances", nargs="+", type=float, metavar="W", help="draw everything at these too")
    several.add_argument("--out", metavar="DIR", help="where the comparison goes")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from reward_models import load

    from ..evaluate import evaluate
    from ..evaluate_generators import EvaluateConfig, evaluate_generators

    given = ("prompts", "judges", "deciding", "seeds", "guidances", "out")
    if options.generators:
        if options.what:
            raise BadInput("evaluate: a run or --generators, not both")
        evaluate_generators(configs.build(EvaluateConfig, _tree(options), "evaluate --generators"), load)
        return
    for name in given:
        if getattr(options, name) is not None:
            raise BadInput(f"--{name}: only together with --generators")
    if not options.what:
        raise BadInput("evaluate: what? Give a finetune run, or --generators NAME=SOURCE NAME=SOURCE --out DIR")
    if Path(options.what).suffix in (".yaml", ".yml", ".json"):
        evaluate_generators(configs.load(EvaluateConfig, options.what, options.overrides), load)
        return
    if options.overrides:
        raise BadInput(f"{options.what}: a run is evaluated as its own config says; '{options.overrides[0]}' cannot be")
    evaluate(options.what, load)


def _tree(options: argparse.Namespace) -> dict[str, object]:
    """Return the options as the tree of an `EvaluateConfig`."""
    from ..evaluate_generators import as_tree, pairs_of, prompts_of

    generators = pairs_of(options.generators, "--generators")
    prompts = options.prompts or prompts_of(generators.values())
    for name, given in (("prompts", prompts), ("out", options.out)):
        if given is None:
            raise BadInput(f"--generators: which {name}? Add --{name}")
    evaluation = {
        "prompts": prompts,
        "judges": pairs_of(options.judges, "--judges") if options.judges else None,
        "deciding": options.deciding,
        "final_seeds_per_prompt": options.seeds,
    }
    return as_tree(
        {
            "generators": generators,
            "out": options.out,
            "evaluation": as_tree(evaluation),
            "guidances": options.guidances,
        }
    )
