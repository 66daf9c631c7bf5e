"""Packed filters that follow a parameter: packed again when its version or its memory changes.

PyTorch counts in-place changes of a tensor (``_version``), but neither those of an optimizer with
``fused=True`` nor those that go through ``.data``. After every step of an optimizer its parameters
are forgotten here; `forget` drops the packed copies after a change through ``.data``.
"""

import weakref
from dataclasses import dataclass

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyinception import config
from pyinception.prepack import Format, Packed, prepack


@dataclass(frozen=True)
class _Kept:
    tensor: weakref.ref[torch.Tensor]
    version: int
    memory: torch.Tensor  # held, so that no other filter comes to lie at its address
    packed: Packed

    def is_of(self, w: torch.Tensor) -> bool:
        """Whether ``w`` is the tensor that was packed, unchanged since."""
        unchanged = self.version == w._version and self.memory.data_ptr() == w.data_ptr()
        return unchanged and self.tensor() is w


_kept: dict[int, _Kept] = {}  # id of the tensor -> its filter, while the tensor lives


def packed_filter(w: torch.Tensor | Packed, format: Format) -> torch.Tensor | Packed:
    """``w`` (K, C, R, S) in ``format``, packed when it was first seen or has changed since.

    What is packed already, and inference tensors, which have no version, come back as they are.
    """
    if isinstance(w, Packed):
        return w
    kept = _kept.get(id(w))
    if kept is not None and kept.is_of(w):
        packed = kept.packed
        if packed.format is format or packed.format == format:
            return packed
    return w if w.is_inference() else _keep(w, format)


def _keep(w: torch.Tensor, format: Format) -> Packed:
    key = id(w)
    version, memory = w._version, w.detach()  # before packing: a later change must show
    packed = pack(w, format)
    _kept[key] = _Kept(weakref.ref(w, lambda _: _kept.pop(key, None)), version, memory, packed)
    return packed


def pack(w: torch.Tensor, format: Format) -> Packed:
    """``w`` (K, C, R, S) in ``format``, in memory of its own."""
    krsc = w.detach().permute(0, 2, 3, 1).numpy()
    return config.with_threads(torch.get_num_threads(), prepack, krsc, format)


def _after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    if _kept:
        for group in optimizer.param_groups:
            forget(*group["params"])


register_optimizer_step_post_hook(_after_step)


def forget(*tensors: torch.Tensor) -> None:
    """Drop the packed copies of ``tensors``; the next call packs them again."""
    for tensor in tensors:
        _kept.pop(id(tensor), None)
