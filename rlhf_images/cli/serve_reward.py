"""``serve-reward``: any reward, for other processes and machines to ask."""

import argparse

from . import Stages
from .score import NAMED


def add(stages: Stages) -> None:
    """Add the command."""
    serve = stages.add_parser(
        "serve-reward",
        help="serve a reward to other processes, which name it remote@http://HOST:PORT",
        description="Serve a reward over HTTP, for training in another process, environment or machine.",
    )
    serve.add_argument("model", help=NAMED)
    serve.add_argument("--host", default="127.0.0.1", help="another than this machine's own needs a token")
    serve.add_argument("--port", type=int, default=8720, help="0 is any free one (default: 8720)")
    serve.add_argument("--token", help="that clients show, as RLHF_IMAGES_REWARD_TOKEN; made where others can reach it")
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> None:
    from reward_models import placed
    from reward_models.serve import serve_reward

    serve_reward(placed(options.model), options.model, host=options.host, port=options.port, token=options.token)
