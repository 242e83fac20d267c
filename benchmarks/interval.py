"""How often the clustered 95 % interval of a win rate holds the truth: ``python benchmarks/interval.py``.

Votes on the pairs of a prompt resemble each other: each prompt has a win rate of its own, drawn from a beta
distribution around the true one, so that two votes of a prompt correlate by ICC. The naive interval takes each vote for
itself.
"""

import sys

import numpy as np

from rlhf_images.statistics import win_rate

TRIALS = 2000
CASES = [(10, 48, 0.05), (10, 24, 0.2), (32, 7, 0.2), (64, 4, 0.2), (64, 16, 0.4)]
"""Prompts, votes of each, ICC."""


def coverage(prompts: int, votes: int, icc: float, truth: float = 0.63) -> tuple[float, float]:
    """Return the shares of trials in which the clustered and the naive interval hold ``truth``."""
    random = np.random.default_rng(prompts * 1000 + votes)
    names = np.repeat(np.arange(prompts), votes).tolist()
    total = (1 - icc) / icc
    held = naive = 0
    for trial in range(TRIALS):
        rates = random.beta(truth * total, (1 - truth) * total, prompts)
        wins = (random.random((prompts, votes)) < rates[:, None]).astype(float).ravel()
        found = win_rate(wins, names, seed=trial, resamples=1000)
        held += found.low <= truth <= found.high
        half = 1.96 * wins.std(ddof=1) / len(wins) ** 0.5
        naive += abs(wins.mean() - truth) <= half
    return held / TRIALS, naive / TRIALS


if __name__ == "__main__":
    print("| prompts | votes of each | correlation within a prompt | clustered | naive |\n|---|---|---|---|---|")
    for case in CASES:
        held, naive = coverage(*case)
        print(f"| {case[0]} | {case[1]} | {case[2]} | {held:.1%} | {naive:.1%} |")
        sys.stdout.flush()
