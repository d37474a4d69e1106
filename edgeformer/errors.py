"""The one exception family. Each error carries the exit code of the command line.

Every message says what went wrong and why; ``hint`` says what to type next.

    >>> str(UsageError("no profile 'rpi44'", hint="did you mean 'rpi4'?"))
    "no profile 'rpi44'\\n  -> did you mean 'rpi4'?"
"""


class EdgeFormerError(Exception):
    """Base of every error EdgeFormer raises on purpose.

    Args:
        message: what went wrong and why, one or two lines.
        hint: what to do or type next; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\n  -> {hint}" if hint else message)


class UsageError(EdgeFormerError):
    """The request itself is wrong: an unknown name, a missing path, an output that exists."""

    exit_code = 2


class ModelError(EdgeFormerError):
    """A checkpoint or module that cannot be loaded or converted."""


class DataError(EdgeFormerError):
    """A calibration or evaluation file that cannot be read as one."""


class TrainingError(EdgeFormerError):
    """A training that diverged, ran out of memory, or cannot go on where it was interrupted."""


class BundleError(EdgeFormerError):
    """A bundle that is missing, truncated, altered, unsafe or from a newer schema."""


class EngineError(EdgeFormerError):
    """An engine that is not installed, not usable on this machine, or gives wrong answers."""


class RemoteError(EdgeFormerError):
    """A board that cannot be reached over ssh, lacks what a measurement needs, or went away."""


class InputError(EdgeFormerError, ValueError):
    """Arguments of a runtime call that the model cannot take."""


class ToleranceError(EdgeFormerError):
    """A converted file whose answers differ from the model's by more than the tolerance."""

    exit_code = 3


class ThresholdError(EdgeFormerError):
    """A figure that was measured does not reach what was asked of it (--min, --fail-if)."""

    exit_code = 3
