"""`doctor`: everything that a run rests on, tried on a few pictures in under a minute, before an hour is spent.

Each check is one function that returns a `Finding`; a patient that cannot be examined further is sent home early.
"""

from collections.abc import Callable

from ..errors import Stop
from ..finetune_config import FinetuneConfig
from ..reward import Reward, RewardSpec
from . import of_generator, of_machine, of_reward
from .findings import Finding
from .patient import Patient

Check = Callable[[Patient], Finding]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("schedule", of_generator.schedule),
    ("pictures", of_generator.pictures),
    ("ratio", of_generator.ratio),
    ("gradient", of_generator.gradient),
    ("kl", of_generator.kl),
    ("constant group", of_generator.constant_group),
    ("saved weights", of_generator.round_trip),
    ("prompts", of_generator.truncation),
    ("reward: answers", of_reward.answers),
    ("reward: same twice", of_reward.deterministic),
    ("reward: alone and in company", of_reward.independent),
    ("reward: sees [0, 1]", of_reward.sees_fractions),
    ("reward: sees RGB", of_reward.sees_colours),
    ("disk", of_machine.disk),
    ("memory", of_machine.memory),
)
"""What is tried, in this order."""

__all__ = ["CHECKS", "Finding", "doctor"]


def doctor(
    config: FinetuneConfig, load_reward: Callable[[RewardSpec], Reward], tell: Callable[[Finding], None]
) -> list[Finding]:
    """Return what was found, each `Finding` also told at once; the run's folder is not touched."""
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        tell(finding)

    try:
        patient = Patient.admitted(config, load_reward)
    except Stop as stop:
        note(Finding.bad("loading", str(stop), "correct what the line names; nothing else can be tried before"))
        return findings
    note(Finding.good("loading", f"{patient.generator.component} of {config.generator.path}, {patient.reward.id}"))
    for name, check in CHECKS:
        note(_examined(name, check, patient))
    return findings


def _examined(name: str, check: Check, patient: Patient) -> Finding:
    try:
        return check(patient)
    except Stop as stop:
        return Finding.bad(name, str(stop), "correct what the line names")
    except Exception as error:  # a user's reward or pipeline can fail in any way, and the other checks go on
        reason = " ".join(str(error).split())[:200]
        return Finding.bad(name, f"could not be tried ({type(error).__name__}: {reason})", "mend that first")
