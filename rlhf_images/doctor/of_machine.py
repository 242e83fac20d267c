"""Checks of the machine: room on its disk and in its memory."""

import os
import shutil
import tempfile
from pathlib import Path

from ..cards import GB, this_machine
from ..checkpoint import KEPT
from ..plan import NUMBER, Plan
from ..rehearsal import rehearse
from .findings import Finding
from .patient import Patient


def disk(patient: Patient) -> Finding:
    """The run's folder can be written, and there is room for its checkpoints."""
    out = Path(patient.config.out)
    above = next((path for path in (out, *out.parents) if path.exists()), Path())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        return Finding.bad(
            "disk", f"{above}: cannot be written ({os.strerror(error.errno or 0)})", "choose another 'out'"
        )
    numbers = sum(parameter.numel() for parameter in patient.policy.parameters.values())
    checkpoint = (3 + len(patient.policy.snapshots.copies) + bool(patient.config.average_decay)) * NUMBER * numbers
    needed, free = (KEPT + 1) * checkpoint, shutil.disk_usage(above).free
    seen = f"{needed / GB:.2g} GB for {KEPT + 1} checkpoints, {free / GB:.3g} GB free"
    if needed > free:
        return Finding.bad("disk", seen, "make room, or choose another 'out'")
    return Finding.good("disk", seen)


def memory(patient: Patient) -> Finding:
    """One process of the run fits the device of this one."""
    device = patient.generator.device
    card = this_machine(device)
    rehearsal = rehearse(patient.config, patient.load_reward, cpu=card.cpu)
    made = Plan(patient.config, card, patient.policy.processes.count, rehearsal)
    needed = sum(made.memory().values())
    seen = f"{needed / GB:.2g} GB of {made.card.memory / GB:.3g} GB"
    if not made.fits:
        return Finding.bad("memory", seen, "'rlhf-images plan' with the same config says what to change")
    return Finding.good("memory", seen)
