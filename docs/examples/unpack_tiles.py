"""Write ten kinds of a packed set of game tiles as a folder of captioned pictures (docs/examples/sprites.md).

python docs/examples/unpack_tiles.py tiles.npz captions.jsonl runs/sprites/pictures

``tiles.npz`` holds ``images (N, 32, 32, 4)``, 8 bits a channel; a line of ``captions.jsonl`` names a tile by its number
``i`` and its ``file``, and gives the ``path`` of folders that it lay in.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {
    "dngn/floor": "a floor",
    "dngn/wall": "a wall",
    "dngn/water": "water",
    "dngn/altars": "an altar",
    "mon/animals": "an animal",
    "mon/unique": "a hero",
    "item/weapon": "a weapon",
    "item/potion": "a potion",
    "item/armour": "an armour",
    "item/amulet": "an amulet",
}
"""The captions by folder. A folder below one of these is another kind, and is left out."""


def main() -> None:
    """Write the pictures and ``metadata.jsonl``, which `pretrain` reads."""
    if len(sys.argv) != 4:
        raise SystemExit("usage: unpack_tiles.py TILES.npz CAPTIONS.jsonl FOLDER")
    arrays, captions, out = (Path(argument) for argument in sys.argv[1:])
    images = np.load(arrays, allow_pickle=False)["images"]
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for line in captions.read_text(encoding="utf-8").splitlines():
        tile = json.loads(line)
        kind = KINDS.get("/".join(tile["path"]))
        if kind is not None and not Path(tile["file"]).name.startswith("i-"):  # symbols that are laid over items
            name = f"{tile['i']:05d}.png"
            Image.fromarray(images[tile["i"]]).save(out / name)
            lines.append(json.dumps({"file_name": name, "text": kind}))
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stderr.write(f"{len(lines)} pictures in {out}\n")


if __name__ == "__main__":
    main()
