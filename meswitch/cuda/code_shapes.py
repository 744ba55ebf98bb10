"""Which codecs the kernels cover, and what they store."""

from meswitch.architecture import ParameterKind
from meswitch.codecs import Codec
from meswitch.cuda.slot_layout import CodeShape
from meswitch.errors import UnsupportedModelError

__all__ = ["code_shape"]

PACKED = ("bitdelta", "gptq", "nested", "rtn", "salient")
"""The codecs that store packed levels and steps, and at most salient channels or a second plane beside them."""


def code_shape(codec: Codec, kind: ParameterKind = ParameterKind.LINEAR) -> CodeShape:
    """What `codec` stores of a matrix of `kind`, as kernels see it.

    Raises:
        UnsupportedModelError: no kernel covers it.
    """
    # a table is needed whole at the start, or at the end: a plane that comes later would gain nothing
    known = [name for name in PACKED if name != "nested" or kind is ParameterKind.LINEAR]
    if codec.name not in known:
        raise UnsupportedModelError(f"on CUDA a codec of {kind} must be one of {', '.join(known)}, got {codec.name}")
    if codec.name == "nested":
        return CodeShape(bits=1, salient=0, planes=2)
    # those without the option have signs, and no salient channels
    return CodeShape(bits=int(codec.options.get("bits", 1)), salient=int(codec.options.get("channels", 0)))
