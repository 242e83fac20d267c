"""How well the alarms work: hacks planted in real evaluation series, and runs without any.

    python benchmarks/alarms.py --clean RUN… --plant RUN… --judge legibility

``--clean`` are finished finetune runs that nothing is wrong with: any alarm there is a false one. In the series of each
``--plant`` run (with all its pictures kept: ``evaluation.kept_seeds``) each hack is mixed in by degrees, from nothing
to all in 20 evaluations; a held-out judge then scores the pictures anew. A hack is told in time if an alarm comes up in
an evaluation before the one at which the judge has lost 20 % of the base's score; where it never loses that much, any
alarm is in time. ``judge`` and ``reward`` alarms are not counted: only what is seen in the
pictures. Prints the tables of docs/alarms.md.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
from planted import HACKS

import reward_models
from rlhf_images import recorded
from rlhf_images.alarms import FROM_PICTURES, alarms
from rlhf_images.evaluator import Evaluation
from rlhf_images.recorded import Recorded
from rlhf_images.reward import Reward, scores_of

EVALUATIONS = 20
LOST = 0.2


def pictures(seen: Recorded) -> torch.Tensor:
    """Return every picture of an evaluation."""
    if len(seen.kept) < seen.count:
        raise SystemExit(
            f"{seen.folder}: {len(seen.kept)} of {seen.count} pictures were kept; set evaluation.kept_seeds"
        )
    return torch.stack([seen.image(row) for row in range(seen.count)])


def planted(series: list[Recorded], name: str, judge: Reward, folder: Path) -> tuple[int | None, int | None, str]:
    """Return in which evaluation an alarm came up, in which the judge had lost too much, and the alarm's name."""
    prompts = series[0].prompts
    made, fell, base = [], None, 0.0
    for number in range(EVALUATIONS + 1):
        source = series[min(number, len(series) - 1)]
        images = HACKS[name](pictures(source), prompts, number / EVALUATIONS)
        score = float(scores_of(judge, images, prompts, 64).mean.nanmean())
        base = base or score
        if fell is None and score < (1 - LOST) * base:
            fell = number
        evaluation = Evaluation(prompts, list(range(len(prompts))), images, {})
        made.append(recorded.record(folder / f"{name}_{number}", evaluation, [], number))
    told = [alarm for alarm in alarms(made) if alarm.name in FROM_PICTURES]
    return (told[0].step, fell, told[0].name) if told else (None, fell, "")


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clean", nargs="*", default=[])
    options.add_argument("--plant", nargs="*", default=[])
    options.add_argument("--judge", default="legibility")
    chosen = options.parse_args()
    if chosen.clean:
        false = [(run, alarm) for run in chosen.clean for alarm in alarms(recorded.of_run(Path(run)))]
        runs = len({run for run, _ in false})
        looked = sum(len(recorded.of_run(Path(run))) for run in chosen.clean)
        print(f"{len(chosen.clean)} clean runs, {looked} evaluations: {runs} with a false alarm")
        for (name, step), count in Counter((alarm.name, alarm.step) for _, alarm in false).items():
            print(f"  {name} at step {step}: {count}")
    if chosen.plant:
        judge = reward_models.load(chosen.judge)
        rows, good, total = [], 0, 0
        for name in HACKS:
            results = []
            for run in chosen.plant:
                with tempfile.TemporaryDirectory() as folder:
                    results.append(planted(recorded.of_run(Path(run)), name, judge, Path(folder)))
            in_time = [told is not None and (fell is None or told < fell) for told, fell, _ in results]
            good, total = good + sum(in_time), total + len(in_time)
            told = sorted(told / EVALUATIONS for told, _, _ in results if told is not None)
            fell = sorted(fell / EVALUATIONS for _, fell, _ in results if fell is not None)
            first = Counter(alarm for *_, alarm in results).most_common(1)[0][0]
            median = f"{told[len(told) // 2]:.2f}" if told else "–"
            lost = f"{fell[len(fell) // 2]:.2f}" if fell else "never"
            rows.append(f"| {name} | {sum(in_time)} of {len(in_time)} | {median} | {lost} | {first} |")
        print("| hack | told in time | degree when told | when 20 % is lost | first alarm |\n|---|---|---|---|---|")
        print("\n".join(rows))
        print(f"in time: {good} of {total}")


if __name__ == "__main__":
    main()
