"""Layouts of preference data: what is read by ``import-pairs`` and written by ``export-pairs``, one file each.

To add one, write its file and its line here. An importer is a function from rows to `compared.Compared`; it touches no
file, refuses a row by `rows.BadRow`, and need not care where pictures are, whether they are whole, or what is already
there: `importing` does. An exporter is a function that writes `layout.Export` into an empty folder.
"""

from . import (
    argilla,
    color_sets,
    editreward,
    events,
    folders,
    hpdv2,
    hpdv3,
    imagefolder,
    imagereward,
    label_studio,
    pair_table,
    pickapic,
    rankings,
    rapidata,
    ratings,
    richhf,
    tifa,
    trl,
    winners,
)
from .layout import Exporter, Importer

__all__ = ["EXPORTERS", "IMPORTERS"]

IMPORTERS: dict[str, Importer] = {
    "pickapic": Importer("Pick-a-Pic v1, v2 and Diffusion-DPO rows: jpg_0, jpg_1, label_0, label_1", pickapic.pairs),
    "trl": Importer("prompt, chosen, rejected with embedded pictures", trl.pairs),
    "imagefolder": Importer("a folder of pictures with metadata.jsonl, a line a pair", imagefolder.pairs),
    "winners": Importer("folders w/ and l/ with the same file names, captions beside", winners.pairs, winners.groups),
    "events": Importer("what export-pairs --format events wrote: merges rounds", events.pairs, events.groups),
    "pairs": Importer("a table: prompt, left, right, choice, annotator, weight", pair_table.pairs),
    "ratings": Importer("a table: prompt, image, rating, annotator", ratings.pairs, ratings.groups),
    "rankings": Importer("a table: prompt, images, ranking, annotator", rankings.pairs),
    "folders": Importer(
        "a folder of pictures per prompt, with ratings.json, ranking.json or neither", folders.pairs, folders.groups
    ),
    "label-studio": Importer("Label Studio's JSON or JSON-MIN export", label_studio.pairs),
    "argilla": Importer("Argilla's records, flat or nested", argilla.pairs),
    "open-image-preferences": Importer("Open Image Preferences, binarized: prompt, chosen, rejected", trl.pairs),
    "hpdv2": Importer("HPDv2: train.json, test.json", hpdv2.pairs),
    "hpdv3": Importer("HPDv3: path1, path2, choice_dist", hpdv3.pairs),
    "imagereward": Importer("ImageRewardDB: test.json, or its rows", imagereward.pairs, imagereward.groups),
    "rapidata": Importer("Rapidata: image1, image2, votes or weighted results", rapidata.pairs),
    "richhf": Importer("RichHF-18K: TFRecord files, or a table of their rows", richhf.pairs, richhf.groups),
    "editreward": Importer("EditReward: path1, path2, scores of each", editreward.pairs),
    "tifa": Importer("TIFA's human annotations: human_scores of pictures", tifa.pairs, tifa.groups),
    "color-sets": Importer("picks between sets of eight colors, drawn as stripes", color_sets.pairs, color_sets.groups),
}
"""Layouts that are read, by name."""

EXPORTERS: dict[str, Exporter] = {
    "pickapic": Exporter("parquet with Pick-a-Pic's columns, which Diffusion-DPO trainers read", pickapic.write),
    "trl": Exporter("parquet with prompt, chosen, rejected; ties in a split of their own", trl.write),
    "imagefolder": Exporter("a folder of pictures with metadata.jsonl", imagefolder.write),
    "winners": Exporter("folders w/ and l/ with captions beside the pictures", winners.write),
    "events": Exporter("every event as a line of JSON, with the pairs and pictures", events.write, unjudged=True),
}
"""Layouts that are written, by name."""
