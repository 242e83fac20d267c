"""Why a stage stops, each reason with its own exit code. The command line prints one line."""


class Stop(Exception):
    """A stage stops for a reason a person can act on: ``message`` names the cause and the next step."""

    exit_code = 1


class BadInput(Stop):
    """A config, data set, checkpoint or folder that cannot be used as it is; nothing was overwritten."""

    exit_code = 2


class NonFinite(Stop):
    """A latent, image, loss or gradient is NaN or infinite: the step was refused and the weights left as they were."""

    exit_code = 3


class RewardFailed(Stop):
    """The reward failed on more pictures of a step than the run tolerates."""

    exit_code = 4


class NotSaved(Stop):
    """The disk refused a write: what was saved before is whole, and the same command continues from it."""

    exit_code = 5

    def __init__(self, error: object) -> None:
        super().__init__(f"{error}; what was saved before is whole: make room, and the same command continues")


class Alarmed(Stop):
    """An alarm came up in a run that was told to stop on one; the last finished step is on disk."""

    exit_code = 6


class ProcessLost(Stop):
    """Another process of the launch died or no longer answers; nothing can be agreed on without it."""

    exit_code = 7

    @classmethod
    def silent(cls, rank: int) -> "ProcessLost":
        """Return what to say of process ``rank``, which missed its beats."""
        return cls(f"process {rank} no longer answers: it died, was stopped, or its machine is gone; {CONTINUES}")

    @classmethod
    def gone(cls, error: object) -> "ProcessLost":
        """Return what to say of a collective that failed with ``error``."""
        return cls(f"another process is gone ({error}); its own last line says why; {CONTINUES}")


CONTINUES = "all processes end, and the same command continues from the last checkpoint"


class Interrupted(Stop):
    """A signal asked for an end; the last finished step is on disk and the same command continues."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # what a shell reports: 130 for Ctrl-C, 143 for SIGTERM
