"""How long a large report takes to write and to open: ``python benchmarks/report.py``.

64 prompts × 8 checkpoints of 512×512 pixels, as WebP: 608 pictures with the best, median and worst rows. Opening is
timed in headless Chromium, from the navigation to the end of loading, the best of three; nothing is asked of a network.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import interpolate

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

from chromium import Chromium  # noqa: E402

from rlhf_images.data import encode  # noqa: E402
from rlhf_images.report import Column, Content, Shot, write_report  # noqa: E402

PROMPTS, CHECKPOINTS, SIDE = 64, 8, 512


def picture(seed: int) -> bytes:
    """Return a picture with detail of every size, about 25 KB as WebP."""
    noise = torch.Generator().manual_seed(seed)
    layers = [
        interpolate(torch.rand(1, 3, side, side, generator=noise), SIDE, mode="bicubic")[0] / side**0.35
        for side in (3, 9, 40, 120, 220)
    ]
    whole = torch.stack(layers).sum(0)
    return encode((whole - whole.min()) / (whole.max() - whole.min()), "WEBP", quality=80)


def content() -> Content:
    """Return a run of 700 steps with 8 evaluations."""
    checkpoints = range(CHECKPOINTS)
    shots = [
        Shot(f"prompt {p}", 0, [picture(p * CHECKPOINTS + c) for c in checkpoints], [c * p / 64 for c in checkpoints])
        for p in range(PROMPTS)
    ]
    names = ("step", "reward", "kl", "grad_norm", "seconds_sampling", "seconds_learning")
    steps = [dict(zip(names, (s, s / 700, s / 7000, 1 + s % 7, 1 + s % 3, 2), strict=True)) for s in range(1, 701)]
    evaluations = [{"step": 100 * c, "reward": c / 8, "judge": c / 9, "diversity": 0.5} for c in checkpoints]
    return Content(
        "large", {}, [], steps, evaluations, {}, "judge", None, {"config": {}},
        columns=[Column(f"step {100 * c}" if c else "base") for c in range(CHECKPOINTS)], shots=shots,
    )  # fmt: skip


def main() -> None:
    """Write the page, open it, and print what that took."""
    given = content()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        begun = time.perf_counter()
        write_report(path, given)
        written = time.perf_counter() - begun
        beside = list((path.parent / "report_pictures").glob("*"))
        opened = []
        with Chromium() as browser:
            for _ in range(3):
                page = browser.page()
                page.open(path.as_uri())
                opened.append(page.js("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
                assert not page.errors, page.errors
                page.close()
        print(f"{PROMPTS} prompts × {CHECKPOINTS} checkpoints, {SIDE}×{SIDE} pixels")
        print(f"written in {written:.1f} s; report.html {path.stat().st_size / 1e6:.2f} MB,", end=" ")
        print(f"{len(beside)} pictures beside it, {sum(file.stat().st_size for file in beside) / 1e6:.1f} MB")
        print(f"opened in {min(opened):.2f} s (of {', '.join(f'{seconds:.2f}' for seconds in opened)})")


if __name__ == "__main__":
    main()
