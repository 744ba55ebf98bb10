"""Which codecs the kernels cover, and what they store."""

from meswitch.architecture import ParameterKind
from meswitch.codecs import Codec
from meswitch.cuda.slot_layout import CodeShape
from meswitch.errors import UnsupportedModelError
from meswitch_kernels.sparse_packing import PLANE_BITS

__all__ = ["code_shape"]

PACKED = ("bitdelta", "gptq", "nested", "rtn", "salient", "sparse-sign")
"""The codecs that store packed codes and steps, and at most salient channels or a second plane beside them."""


def code_shape(codec: Codec, kind: ParameterKind = ParameterKind.LINEAR) -> CodeShape:
    """What `codec` stores of a matrix of `kind`, as kernels see it.

    Raises:
        UnsupportedModelError: no kernel covers it.
    """
    # a table is needed whole at the start, or at the end: a plane that comes later would gain nothing; and its rows are
    # looked up one by one, for which signed positions have no kernel
    left_out = {ParameterKind.LINEAR: (), ParameterKind.HEAD: ("nested",)}.get(kind, ("nested", "sparse-sign"))
    known = [name for name in PACKED if name not in left_out]
    if codec.name not in known:
        raise UnsupportedModelError(f"on CUDA a codec of {kind} must be one of {', '.join(known)}, got {codec.name}")
    if codec.name == "nested":
        return CodeShape(bits=1, salient=0, planes=2)
    # those without the option have signs, and no salient channels
    salient = int(codec.options.get("channels", 0))
    if codec.name != "sparse-sign":
        return CodeShape(bits=int(codec.options.get("bits", 1)), salient=salient)
    group = int(codec.options["group"])
    if group not in PLANE_BITS:
        raise UnsupportedModelError(f"on CUDA groups of sparse-sign must be 4 or 8, got group={group}")
    return CodeShape(bits=PLANE_BITS[group], salient=salient, group=group, keep=int(codec.options["keep"]))
