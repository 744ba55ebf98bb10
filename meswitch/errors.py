"""Everything meswitch raises on purpose.

* MeswitchError
  x CheckpointError          a Hugging Face checkpoint cannot be used as it is
    + MissingShardError      the index names a file or tensor that is not there
    + ShapeMismatchError     a parameter of the expert has another shape than the base's
    + UnsupportedModelError  an architecture, a fused projection or a config we do not handle
    + WrongParentError       the expert does not descend from this base
  x DeltaError
    + DeltaFormatError       the directory is not one we wrote, or is damaged
    + BaseMismatchError      the delta was made from another base
    + UnknownCodecError      no codec is registered under that name
    + CodecOptionError       the codec has no such option, or not with that value
  x ExpertError
    + UnknownExpertError     no expert is registered under that name
    + ExpertNameError        the name is reserved, taken or not allowed
  x FamilyError              a model family is unknown, incomplete or damaged
  x CapacityError            it cannot fit, now or ever
  x StorageError             the disk refused: full, read-only, vanished
  x EngineError              the engine stopped or cannot start
  x UnknownPolicyError       no eviction policy has that name

A caller's programming mistake is a `ValueError`; a user's or the world's mistake is one of the above, and a
command line prints its message as one line and exits with 1.
Messages state the rule, then the value, then what to do.
"""

__all__ = [
    "BaseMismatchError",
    "CapacityError",
    "CheckpointError",
    "CodecOptionError",
    "DeltaError",
    "DeltaFormatError",
    "EngineError",
    "ExpertError",
    "ExpertNameError",
    "FamilyError",
    "MeswitchError",
    "MissingShardError",
    "ShapeMismatchError",
    "StorageError",
    "UnknownCodecError",
    "UnknownExpertError",
    "UnknownPolicyError",
    "UnsupportedModelError",
    "WrongParentError",
]


class MeswitchError(Exception):
    """Root of the tree: catch this to catch all of it."""


class CheckpointError(MeswitchError):
    """A Hugging Face checkpoint cannot be used as it is."""


class MissingShardError(CheckpointError):
    """The checkpoint's index names a file or a tensor that is not there."""


class ShapeMismatchError(CheckpointError):
    """A parameter of the expert has another shape than the base's."""


class UnsupportedModelError(CheckpointError):
    """An architecture, a fused projection or a config that is not handled."""


class WrongParentError(CheckpointError):
    """The expert does not descend from this base."""


class DeltaError(MeswitchError):
    """A compressed delta cannot be made, read or applied."""


class DeltaFormatError(DeltaError):
    """The directory is not a delta of ours, or is damaged."""


class BaseMismatchError(DeltaError):
    """The delta was made from another base."""


class UnknownCodecError(DeltaError):
    """No codec is registered under that name."""


class CodecOptionError(DeltaError):
    """The codec has no such option, or not with that value."""


class ExpertError(MeswitchError):
    """An expert's name is the problem."""


class UnknownExpertError(ExpertError):
    """No expert is registered under that name."""


class ExpertNameError(ExpertError):
    """The name is reserved, taken or not allowed."""


class FamilyError(MeswitchError):
    """A model family is unknown, incomplete or damaged."""


class CapacityError(MeswitchError):
    """It cannot fit, now or ever."""


class StorageError(MeswitchError):
    """The disk refused: full, read-only or vanished."""


class EngineError(MeswitchError):
    """The engine stopped, or cannot start."""


class UnknownPolicyError(MeswitchError):
    """No eviction policy has that name."""
