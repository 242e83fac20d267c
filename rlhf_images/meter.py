"""A meter on the arithmetic: within its ``with``, it counts FLOPs, bytes moved and bytes held, operation by operation.

It works on real tensors, and on weights without values (on the *meta* device). Then whatever has met a weight has no
value either, while token numbers, times and masks stay real: so the code of any pipeline, which looks at those, runs.
"""

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from .workspace import held_at_most

META = torch.device("meta")
CPU = torch.device("cpu")
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FUSED = torch.ops.aten._native_multi_head_attention
"""What `nn.MultiheadAttention` is where nothing is learnt, as in a reward of open_clip; torch knows no FLOPs of it."""
PLAIN_ATTENTION: Callable[..., Tensor] = functional.scaled_dot_product_attention
FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


@final
@dataclass(frozen=True)
class Work:
    """What some operations cost. FLOPs (two a multiply-add) of products alone, by the type they are computed in."""

    flops_by_dtype: Counter[torch.dtype] = field(default_factory=Counter)
    traffic: int = 0
    """Bytes read and written, had each operation to fetch its inputs and put its outputs back."""
    shape: Counter[tuple[torch.dtype, int, int]] = field(default_factory=Counter)
    """Of each kind of operation, told apart by (dtype, FLOPs, bytes), how often it ran."""

    @property
    def flops(self) -> int:
        """Return the FLOPs of every type."""
        return sum(self.flops_by_dtype.values())

    def seconds(self, rate: Callable[[torch.dtype], float], bandwidth: float = 0.0, launch: float = 0.0) -> float:
        """Return the time at ``rate(dtype)`` FLOP/s: with a ``bandwidth`` (bytes/s), that of operations run one by one.

        Each then waits for its arithmetic, its memory or its ``launch`` (seconds), whichever takes longest.
        """
        if not bandwidth:
            return sum(flops / rate(dtype) for dtype, flops in self.flops_by_dtype.items())
        return sum(
            n * max(flops / rate(dtype), moved / bandwidth, launch) for (dtype, flops, moved), n in self.shape.items()
        )

    def __sub__(self, other: "Work") -> "Work":
        """Return what came after ``other``."""
        flops = Counter(self.flops_by_dtype)
        flops.subtract(other.flops_by_dtype)
        shape = Counter(self.shape)
        shape.subtract(other.shape)
        return Work(+flops, self.traffic - other.traffic, +shape)


@final
class Meter(TorchDispatchMode):
    """Counts what runs in its ``with`` as `work`; of storage made there, ``live`` bytes now and ``peak`` at most.

    With ``cpu``, the peak is that of a CPU, whose convolutions copy what they are given. Where all tensors are
    ``real``, what runs computes bit by bit what it does unmetered: torch fuses some layers only where nobody looks.
    """

    def __init__(self, *, cpu: bool = False, real: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cpu = cpu
        self._work = Work()
        self._traffic = 0
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._seen: dict[Any, tuple[_Form, _Cost | None]] = {}
        self._values = None if real else _RealValues()

    @property
    def work(self) -> Work:
        """Return what was counted so far."""
        return Work(Counter(self._work.flops_by_dtype), self._traffic, Counter(self._work.shape))

    def mark(self) -> None:
        """Forget the peak: from now on it is that of what comes."""
        self.peak = self.live

    def __enter__(self) -> "Meter":
        """Begin to count, and let attention without values run as a fused kernel does: no matrix of all pairs."""
        if self._values is not None:
            functional.scaled_dot_product_attention = _attention
            self._values.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        functional.scaled_dot_product_attention = PLAIN_ATTENTION
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if self._values is not None:
            self._values.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, on meta if one of its tensors is there, and count it."""
        del types
        given = dict(kwargs or {})
        inputs = list(_tensors((*args, *given.values())))
        if not any(tensor.device == META for tensor in inputs):
            if "device" in given:
                given["device"] = _real(given["device"])
            result = func(*args, **given)
            self._count(inputs, result, _Cost.of(func, args, given, inputs, result))
            return result
        if "device" in given:
            given["device"] = META
        return self._without_values(func, args, given, inputs)

    def _without_values(self, func: Any, args: tuple[Any, ...], given: dict[str, Any], inputs: list[Tensor]) -> Any:
        """Run an operation on tensors of which one has no value; what was seen before is not asked of torch again."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return {torch.bool: True}.get(inputs[0].dtype, 1.0 if inputs[0].is_floating_point() else 1)
        if func is torch.ops.aten.equal.default:
            return True
        if any(tensor.device != META for tensor in inputs):
            written = _written(func, args, given)
            if written is not None and written.device != META:
                return written  # a real tensor cannot take what has no value
            if func._overloadpacket in INDEXING:
                args = (args[0], _numbered(args[1]), *args[2:])
            args, given = tree_map_only(Tensor, _emptied, (args, given))
        key = None if _aliases(func) else (func, _key(args), _key(tuple(given.items())))
        seen = self._seen.get(key)
        if seen is not None:
            form, cost = seen
            result = form.made()
        else:
            result = func(*args, **given)
            cost = _Cost.of(func, args, given, inputs, result)
            if key is not None:
                self._seen[key] = (_Form.of(result), cost)
        self._count(inputs, result, cost)
        return result

    def _count(self, inputs: list[Tensor], result: Any, cost: "_Cost | None") -> None:
        if cost is not None and self._cpu:
            self.peak = max(self.peak, self.live + cost.held)
        before = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in _tensors(result if isinstance(result, tuple | list) else (result,)):
            if tensor.untyped_storage()._cdata not in before:
                self._hold(tensor)
        if cost is not None:
            self._traffic += cost.moved
            self._work.flops_by_dtype[cost.dtype] += cost.flops
            self._work.shape[cost.dtype, cost.flops, cost.moved] += 1

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


@final
class _RealValues(TorchFunctionMode):
    """Lets tensors that are made of numbers keep them."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make them on the CPU where they were to be on meta."""
        del types
        if func in FROM_VALUES and kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _real(kwargs["device"])}
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    fused = query.ndim == 4 and query.shape[-1] == value.shape[-1]
    if not fused or META not in (query.device, key.device, value.device):
        return PLAIN_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    if attn_mask is not None and not attn_mask.is_floating_point():
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    query, key, value = (part.to(META) for part in (query, key, value))
    attended: Tensor = ATTENTION(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return attended


def _attention_flops(query: Tensor, key: Tensor, *_: Any, **__: Any) -> int:
    """Return the FLOPs of `FUSED`: of its four projections and its two products."""
    (batch, length, width), others = query.shape, key.shape[1]
    return 4 * batch * width * (width * (length + others) + length * others)


@final
@dataclass(frozen=True)
class _Cost:
    """Of one operation that is more than a view."""

    dtype: torch.dtype
    flops: int
    moved: int
    held: int
    """Bytes at its peak, on a CPU; 0 if no more than what it returns."""

    @classmethod
    def of(cls, func: Any, args: Any, given: Any, inputs: list[Tensor], result: Any) -> "_Cost | None":
        before = {tensor.untyped_storage()._cdata for tensor in inputs}
        outputs = list(_tensors(result if isinstance(result, tuple | list) else (result,)))
        new = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in before]
        if not inputs or not (new or _written(func, args, given) is not None):
            return None
        formula = _attention_flops if func._overloadpacket is FUSED else flop_registry.get(func._overloadpacket)
        flops = int(formula(*args, **given, out_val=result)) if formula is not None else 0
        moved = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *new))
        return cls(inputs[0].dtype, flops, moved, held_at_most(func, args, result))


@final
@dataclass(frozen=True)
class _Form:
    """Sizes, strides and types of what an operation returns, and the kind of its sequence."""

    kind: type | None
    parts: tuple[Any, ...]

    @classmethod
    def of(cls, result: Any) -> "_Form":
        several = isinstance(result, tuple | list)
        parts = tuple(result) if several else (result,)
        forms = tuple((p.shape, p.stride(), p.dtype) if isinstance(p, Tensor) else p for p in parts)
        return cls(type(result) if several else None, forms)

    def made(self) -> Any:
        parts = [
            torch.empty_strided(part[0], part[1], dtype=part[2], device=META) if isinstance(part, tuple) else part
            for part in self.parts
        ]
        return parts[0] if self.kind is None else tuple(parts) if issubclass(self.kind, tuple) else parts


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the tensors of an operation's arguments, which may be lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _key(value: Any) -> Any:
    """Return what tells apart the arguments of operations on meta."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, tuple | list):
        return tuple(_key(part) for part in value)
    return type(value), value


@functools.cache
def _aliases(func: Any) -> bool:
    """Return whether what ``func`` returns may be, or write into, one of its arguments."""
    values = (*func._schema.arguments, *func._schema.returns)
    return any(value.alias_info is not None for value in values)


def _real(device: Any) -> Any:
    """Return where a tensor is made that no weight is in."""
    return CPU if device is not None and torch.device(device) == META else device


def _emptied(tensor: Tensor) -> Tensor:
    if tensor.device == META:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def _numbered(places: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return index tensors with the numbers of what real masks select in their place: those have a shape on meta."""
    numbered: list[Tensor | None] = []
    for place in places:
        mask = place is not None and place.dtype == torch.bool and place.device != META
        numbered += list(place.nonzero().unbind(1)) if place is not None and mask else [place]
    return numbered


def _written(func: Any, args: Sequence[Any], given: dict[str, Any]) -> Tensor | None:
    """Return the tensor that ``func`` writes into."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found = args[place] if place < len(args) else given.get(argument.name)
            return found if isinstance(found, Tensor) else None
    return None
