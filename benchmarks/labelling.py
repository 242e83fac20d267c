"""How long an annotator waits: from the key press to the next pair on the screen, and until the vote is on disk.

python benchmarks/labelling.py [pairs] prints a table. It needs Chromium (apt-get install chromium). The pictures are
1024×1024 PNGs with the detail of photographs (about 2 MB each), the browser is headless and draws without a GPU, the
server is a process of its own on the same machine, with SQLite. "Painted" is the browser's own account of the frame in
which both pictures appeared (Element Timing), counted from the time stamp of the key press.
"""

import hashlib
import io
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests/labelling")]

from chromium import Chromium, Page  # noqa: E402
from rounds import Client, Killable  # noqa: E402

from rlhf_images.preferences import Pairs, Picture, PreferencePair  # noqa: E402

SIDE = 1024
GAP_S = 0.6
"""From one vote to the next: three times as fast as the quickest people are in the long run."""
TARGETS = {"painted": 50.0, "page": 25.0, "client": 25.0}
READY = "document.querySelector('#stage').dataset.state === 'ready'"
WATCH = """
  window.presses = [];
  window.painted = [];
  const Made = window.Image;
  window.Image = function () {
    const image = new Made();
    image.setAttribute('elementtiming', 'picture');
    return image;
  };
  new PerformanceObserver((list) => {
    for (const { url, renderTime } of list.getEntries()) painted.push([url.split('/').pop(), renderTime]);
  }).observe({ type: 'element', buffered: true });
  addEventListener('keydown', ({ timeStamp }) => {
    setTimeout(() => {
      const shown = [...document.querySelectorAll('.box img')].map((image) => image.src.split('/').pop());
      presses.push([timeStamp, shown]);
    });
  }, true);
"""
SENT = """performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/api/events'))
  .map((entry) => entry.responseEnd - entry.requestStart)"""


def pictures(count: int) -> Iterator[bytes]:
    """Yield PNGs of soft shapes under the noise of a camera."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for _ in range(count):
        image = np.zeros((SIDE, SIDE, 3)) + random.uniform(40, 200, 3)
        for _ in range(5):
            (cx, cy), radius = random.uniform(0, 1, 2), random.uniform(0.05, 0.3)
            inside = np.clip((radius - np.hypot(x - cx, y - cy)) * 30, 0, 1)[..., None]
            image = image * (1 - inside) + random.uniform(0, 255, 3) * inside
        file = io.BytesIO()
        noisy = np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(file, "PNG", compress_level=1)
        yield file.getvalue()


def made(folder: Path, count: int) -> Pairs:
    """Write a round of ``count`` pairs."""
    rows = []
    for index, data in enumerate(pictures(2 * count)):
        rows.append((data, Picture(hashlib.sha256(data).hexdigest(), "a lighthouse at dusk", 0, index, {})))
    ids = [picture.id for _, picture in rows]
    pairs = [PreferencePair(f"{i:04d}", "a lighthouse at dusk", ids[2 * i], ids[2 * i + 1]) for i in range(count)]
    return Pairs.create(folder, rows, pairs)


def painted(page: Page) -> list[float]:
    """Return, for each key press, the ms until the later of the two pictures was on the screen."""
    times: dict[str, list[float]] = {}
    for name, at in page.js("painted"):
        times.setdefault(name, []).append(at)
    return [
        max(min(at for at in times[name] if at >= pressed) for name in shown) - pressed
        for pressed, shown in page.js("presses")
    ]


def in_the_browser(address: str, votes: int) -> tuple[list[float], list[float]]:
    """Vote with real key presses; return ms until painted, and ms until acknowledged as the page saw it."""
    with Chromium() as browser:
        page = browser.page(1280, 800, private=True)
        page.send("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        page.open(address)
        page.until(READY)
        time.sleep(2)
        for number in range(votes):
            page.key(["ArrowLeft", "ArrowRight", "ArrowUp"][number % 3])
            time.sleep(GAP_S)
            page.until(READY)
        page.until("document.querySelector('#saved').textContent === 'saved ✓'")
        time.sleep(1)
        return painted(page), list(page.js(SENT))


def over_http(port: int, votes: int) -> list[float]:
    """Return ms until acknowledged over one connection, without a browser beside it."""
    took = []
    with Client(port, "script") as client:
        for number in range(votes):
            event = {"id": str(uuid.uuid4()), "type": "vote", "pair": "0000", "choice": "left", "ms": number}
            start = time.perf_counter()
            answer = client.post([event])
            took.append(1000 * (time.perf_counter() - start))
            assert answer.status == 200
    return took


def row(name: str, values: Sequence[float], target: float) -> str:
    """Return a line of the table."""
    p50, p95 = np.percentile(values, [50, 95])
    verdict = "yes" if p95 <= target else "NO"
    return f"| {name} | {len(values)} | {p50:.1f} | {p95:.1f} | {max(values):.1f} | ≤ {target:.0f}: {verdict} |"


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder) / "pairs", count)
        with Killable(Path(folder) / "pairs") as server:
            shown, acknowledged = in_the_browser(server.address, count - 6)
            sent = over_http(server.port, 300)
    print("| ms | n | p50 | p95 | max | p95 wanted |")
    print("|---|---|---|---|---|---|")
    print(row(f"key press → next pair painted, {SIDE}² PNGs", shown, TARGETS["painted"]))
    print(row("vote → on disk and acknowledged, in the page", acknowledged, TARGETS["page"]))
    print(row("vote → on disk and acknowledged, one HTTP client", sent, TARGETS["client"]))


if __name__ == "__main__":
    main()
