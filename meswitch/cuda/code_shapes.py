"""Which codecs the kernels cover, and what they store."""

from meswitch.codecs import Codec
from meswitch.cuda.slot_layout import CodeShape
from meswitch.errors import UnsupportedModelError

__all__ = ["code_shape"]

PACKED = ("bitdelta", "gptq", "nested", "rtn", "salient")
"""The codecs that store packed levels and steps, and at most salient channels or a second plane beside them."""


def code_shape(codec: Codec) -> CodeShape:
    """What `codec` stores of a matrix, as kernels see it.

    Raises:
        UnsupportedModelError: no kernel covers it.
    """
    if codec.name not in PACKED:
        raise UnsupportedModelError(f"on CUDA a codec must be one of {', '.join(PACKED)}, got {codec.name}")
    if codec.name == "nested":
        return CodeShape(bits=1, salient=0, planes=2)
    # those without the option have signs, and no salient channels
    return CodeShape(bits=int(codec.options.get("bits", 1)), salient=int(codec.options.get("channels", 0)))
