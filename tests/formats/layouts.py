"""One comparison in each layout that is a table, as its rows have it: the prompt, the better picture, the worse one."""

from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]


def colors(name: str) -> list[str]:
    """Return eight colours that depend on a name."""
    return [f"{(hash_of(name) + 7919 * i) % 0x1000000:06x}" for i in range(8)]


def hash_of(name: str) -> int:
    return sum(ord(character) * 31**place for place, character in enumerate(name)) % 0x1000000


TABLES: dict[str, Callable[[str, str, str], Rows]] = {
    "pickapic": lambda prompt, better, worse: [
        {"jpg_0": worse, "jpg_1": better, "label_0": 0.0, "label_1": 1.0, "caption": prompt, "are_different": True,
         "has_label": True, "best_image_uid": "x", "image_0_uid": "y", "image_1_uid": "x", "model_0": "a",
         "model_1": "b", "ranking_id": 7, "user_id": 5, "num_example_per_prompt": 1, "image_0_url": "https://x.y/z.png"}
    ],
    "trl": lambda prompt, better, worse: [{"prompt": prompt, "chosen": better, "rejected": worse}],
    "open-image-preferences": lambda prompt, better, worse: [
        {"prompt": prompt, "chosen": better, "rejected": worse, "chosen_model": "dev", "rejected_model": "sd",
         "evolution": "quality", "category": "Manga"}
    ],
    "imagefolder": lambda prompt, better, worse: [
        {"left_file_name": worse, "right_file_name": better, "prompt": prompt, "preference": 0.0}
    ],
    "pairs": lambda prompt, better, worse: [
        {"prompt": prompt, "left": worse, "right": better, "choice": "B", "annotator": "ann", "strength": 2}
    ],
    "ratings": lambda prompt, better, worse: [
        {"prompt": prompt, "image": worse, "rating": 1.5, "annotator": "ann"},
        {"prompt": prompt, "image": better, "rating": 4, "annotator": "ann"},
    ],
    "rankings": lambda prompt, better, worse: [{"prompt": prompt, "images": [worse, better], "ranking": [2, 1]}],
    "label-studio": lambda prompt, better, worse: [
        {"id": 1, "data": {"prompt": prompt, "image1": worse, "image2": better},
         "annotations": [{"id": 9, "completed_by": 3, "was_cancelled": False, "lead_time": 4.2, "result": [
             {"from_name": "pw", "to_name": "image1,image2", "type": "pairwise", "value": {"selected": "right"}}]}]}
    ],
    "argilla": lambda prompt, better, worse: [
        {"id": "1", "status": "completed", "images": {"image_1": worse, "image_2": better, "prompt": prompt},
         "model_1": "dev", "preference.responses": ["image_2", "image_2"], "preference.responses.users": ["u1", "u2"],
         "preference.responses.status": ["submitted", "submitted"]}
    ],
    "hpdv2": lambda prompt, better, worse: [
        {"prompt": prompt, "file_path": [worse, better], "human_preference": [0, 1]}
    ],
    "hpdv3": lambda prompt, better, worse: [
        {"prompt": prompt, "path1": better, "path2": worse, "confidence": 0.99, "choice_dist": [12, 7], "model1": "a",
         "model2": "b"}
    ],
    "imagereward": lambda prompt, better, worse: [
        {"id": f"id {prompt}", "prompt": prompt, "generations": [worse, better], "ranking": [2, 1]}
    ],
    "rapidata": lambda prompt, better, worse: [
        {"prompt": prompt, "image1": worse, "image2": better, "model1": "a", "model2": "b",
         "weighted_results_image1_preference": 0.25, "weighted_results_image2_preference": 0.75,
         "detailed_results_preference": "[]"}
    ],
    "richhf": lambda prompt, better, worse: [
        {"filename": worse, "caption": prompt, "aesthetics_score": 0.5, "artifact_score": 0.5,
         "misalignment_score": 0.5, "overall_score": 0.4},
        {"filename": better, "caption": prompt, "aesthetics_score": 0.2, "artifact_score": 0.5,
         "misalignment_score": 0.5, "overall_score": 0.9},
    ],
    "editreward": lambda prompt, better, worse: [
        {"prompt": prompt, "choice_dist": None, "confidence": None, "path_src": "before.png", "path1": worse,
         "path2": better, "model1": "a", "model2": "b", "model1_dim1_score": 2, "model2_dim1_score": 4,
         "model1_overall_score": 0.9, "model2_overall_score": 0.1}
    ],
    "tifa": lambda prompt, better, worse: [
        {"text_id": "t", "image_path": worse, "text": prompt, "human_scores": [3, 2], "human_avg": 2.5},
        {"text_id": "t", "image_path": better, "text": prompt, "human_scores": [3, 4], "human_avg": 3.5},
    ],
    "color-sets": lambda prompt, better, worse: [
        {"rater": "r1", "set_1": colors(prompt + worse), "set_2": colors(prompt + better), "orders": ["01234567"] * 4,
         "draw_mode": 2, "set_pick": 2, "cycle_pick": 1, "np": 0}
    ],
}  # fmt: skip
"""Every importer that reads tables."""
