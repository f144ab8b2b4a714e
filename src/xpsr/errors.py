"""Every error that xpsr raises on purpose.

    XPSRError
    ├── InputError              a picture, argument or option that cannot be used (also a ValueError)
    ├── ModelError              a model folder that cannot be found, read or matched to its weights
    ├── MissingDependencyError  an optional package is not installed (also an ImportError)
    └── TrainingError           a training run that cannot start or go on

Messages are one line: what is wrong (value and limit) and what to do about it. The command line prints them as they
are.
"""

__all__ = ["InputError", "MissingDependencyError", "ModelError", "TrainingError", "XPSRError"]


class XPSRError(Exception):
    """Base of all errors that xpsr raises on purpose."""


class InputError(XPSRError, ValueError):
    """A picture, argument or option that cannot be used."""


class ModelError(XPSRError):
    """A model folder that cannot be found, read or matched to its weights."""


class MissingDependencyError(XPSRError, ImportError):
    """An optional package is not installed; the message holds the exact install command."""


class TrainingError(XPSRError):
    """A training run that cannot start or go on."""
