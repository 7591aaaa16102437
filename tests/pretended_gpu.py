"""A pretended CUDA device: what is for GPUs alone runs where there is none.

    python -m tests.pretended_gpu 2 bash get_pseudo_gt_VOC.sh --device cuda    # with two GPUs

Its tensors hold CPU memory, and say that they are on cuda:N. It raises, or spoils values, where a
GPU would: operations on two devices, memory that nobody has written (nan), copies that nobody has
waited for (nan until then), pinned memory that is written while it may still be read, devices
without an index where torch wants one, a forked process that uses the device, and memory beyond
RIB_PRETENDED_BYTES. Races between streams, kernels and their rounding are not shown.
"""

import inspect
import os
import sys
import threading
import warnings
import weakref
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed

# Private functions of torch, and those that only newer versions have.
NEEDED = (
    *("_C._disabled_torch_function_impl", "_C._nn._parse_to", "Tensor._make_subclass"),
    *("_C._dispatch_tls_set_dispatch_key_included", "_import_device_backends"),
    *("__future__.set_swap_module_params_on_conversion", "amp.autocast_mode.autocast"),
    *("accelerator", "cuda._utils._get_device_index"),
    "utils._foreach_utils._foreach_supported_types",
)
aten = torch.ops.aten
_lock, _thread = threading.RLock(), threading.local()
_memories: "weakref.WeakValueDictionary[int, Memory]" = weakref.WeakValueDictionary()
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
_READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select"}
# These take no 0-dim tensor of the CPU beside tensors of the device.
_STRICT = {
    *("index_select", "gather", "scatter_", "scatter_add_", "index_add_", "cat", "mm", "bmm"),
    *("convolution", "native_batch_norm"),
}
# All that make tensors call one of these.
_FACTORIES = ("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step")
_to_of_torch = torch.Tensor.to


def environment(gpus: int, memory: int | None = None) -> dict[str, str]:
    """The variables of a process whose torch has these devices, and of all that it starts."""
    try:
        attrgetter(*NEEDED)(torch)
    except AttributeError as error:
        pytest.skip(f"no device can be pretended: {error}")
    project = Path(__file__).resolve().parent.parent
    # torch loads the extensions that packages on this path announce.
    paths = [project, project / "tests" / "pretended", os.environ.get("PYTHONPATH", "")]
    limit = {} if memory is None else {"RIB_PRETENDED_BYTES": str(memory)}
    path = os.pathsep.join(map(str, filter(None, paths)))
    return {**os.environ, "RIB_PRETENDED_GPUS": str(gpus), "PYTHONPATH": path, **limit}


@dataclass
class State:
    """The state of all devices of the process."""

    process: int | None = None  # that has used them first
    coming: list[tuple] = field(default_factory=list)  # CPU memory, the values that it will have
    leaving: list[tuple] = field(default_factory=list)  # pinned memory, the values that are read
    bytes: int = 0
    peak: int = 0
    limit: int = int(os.environ.get("RIB_PRETENDED_BYTES", 1 << 62))


state = State()


class Memory:
    """That of a storage, for as long as a tensor is on it."""

    def __init__(self, size: int):
        self.size = 0
        if state.bytes + size > state.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {state.bytes} + {size} (pretended)")
        self.size, state.bytes = size, state.bytes + size
        state.peak = max(state.peak, state.bytes)

    def __del__(self):
        state.bytes -= self.size


def memory_of(tensor: torch.Tensor) -> list[Memory]:
    """The memory of a tensor, or of the three that sparse rows have."""
    if tensor.layout == torch.sparse_csr:
        rows = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
        return [memory for part in rows for memory in memory_of(part)]
    storage = tensor.untyped_storage()
    with _lock:
        memory = _memories.get(storage._cdata) or Memory(storage.nbytes())
        _memories[storage._cdata] = memory
    return [memory]


class OnDevice(torch.Tensor):
    """A tensor of the pretended device.

    Below Python it stays one of the CPU, but for the keys by which operations are chosen: so
    backward needs no driver.
    """

    __torch_function__ = getattr(torch._C, "_disabled_torch_function_impl", None)
    device = property(lambda self: self.place)
    is_cuda, is_cpu = property(lambda self: True), property(lambda self: False)

    @staticmethod
    def __new__(cls, inner: torch.Tensor, place: torch.device) -> "OnDevice":
        made = torch.Tensor._make_subclass(cls, inner, device_for_backend_keys=place)
        made.inner, made.memory, made.place = inner, memory_of(inner), place
        return made

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return to(self, *args, **kwargs)

    def cpu(self) -> torch.Tensor:
        return to(self, "cpu")

    def tolist(self) -> list:
        return to(self, "cpu").tolist()

    def numpy(self, **_: Any) -> None:
        raise TypeError(f"can't convert {self.place} device type tensor to numpy (pretended)")

    __array__ = pin_memory = numpy

    def __deepcopy__(self, memo: dict) -> "OnDevice":
        copied = OnDevice(self.inner.detach().clone(), self.place)
        of_module = isinstance(self, torch.nn.Parameter)
        copied = torch.nn.Parameter(copied, self.requires_grad) if of_module else copied
        return memo.setdefault(id(self), copied)

    def __reduce_ex__(self, protocol: int) -> tuple:
        wait()
        return self.inner.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        _use()
        if func is aten._to_copy.default:
            kwargs = {k: v for k, v in kwargs.items() if k in ("dtype", "memory_format")}
            return OnDevice(func(args[0].inner, **kwargs), args[0].place)
        if func is aten.copy_.default:
            return _copied(*args, **kwargs)
        if func is aten.mul.out and torch.distributed.is_initialized():
            # DistributedDataParallel, which is C++, finds its buckets on the CPU.
            return func(args[0].inner, *args[1:], **kwargs)
        return _on_one_device(func, args, kwargs or {})


def _on_one_device(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation on the tensors inside; raises where they are not all on one device."""
    name, tensors, indices = func.overloadpacket.__name__, [], []
    indexed = func in _INDEXED and isinstance(args[0], OnDevice)  # by tensors that may be anywhere
    inside = [_inside(arg, indices if indexed and n == 1 else tensors)
              for n, arg in enumerate(args)]  # fmt: skip
    words = {key: _inside(value, tensors) for key, value in kwargs.items()}
    places = {t.place for t in tensors if isinstance(t, OnDevice)}
    alone = [t for t in tensors if not isinstance(t, OnDevice) and (t.dim() or name in _STRICT)]
    if len(places) != 1 or alone:
        found = sorted({str(t.device) for t in tensors})
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {found} ({func}, pretended)"
        )
    if name in _READS:
        wait()
    if words.get("device") is not None:
        words["device"] = "cpu"
    result = func(*inside, **words)
    if name.startswith(("empty", "new_empty")):
        spoil(result)
    owners = {id(t.inner): t for t in tensors if isinstance(t, OnDevice)}
    return _outside(result, owners, places.pop())


def _inside(value: Any, found: list) -> Any:
    """The CPU's tensors in an argument; appends those of the argument to `found`."""
    if isinstance(value, torch.Tensor):
        found.append(value)
        return getattr(value, "inner", value)
    return [_inside(v, found) for v in value] if isinstance(value, list | tuple) else value


def _outside(value: Any, owners: dict, place: torch.device) -> Any:
    """The device's tensors for those of the CPU; those that were changed stay what they were."""
    if isinstance(value, list | tuple):
        return type(value)(_outside(v, owners, place) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    owner = owners.get(id(value))
    if owner is not None and (owner.shape, owner.stride()) != (value.shape, value.stride()):
        raise NotImplementedError("an operation has changed a shape")
    return OnDevice(value, place) if owner is None else owner


# --- from and to the CPU --------------------------------------------------------------------------


def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to`, in place of it."""
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
    options = {"dtype": dtype or tensor.dtype, "non_blocking": non_blocking, "copy": copy}
    options |= {} if layout is None else {"memory_format": layout}
    device = with_index(device) if device is not None and device.type == "cuda" else device
    if device is None or device == tensor.device:
        return _to_of_torch(tensor, **options)
    if not isinstance(tensor, OnDevice):
        return _to_of_torch(tensor, device=device, **options)
    if device.type == "cuda":
        raise NotImplementedError("from one device to another")
    return _to_cpu(tensor, options["dtype"], non_blocking)


def _to_cpu(tensor: OnDevice, dtype: torch.dtype, non_blocking: bool) -> torch.Tensor:
    if tensor.grad_fn is not None and torch.is_grad_enabled():
        raise NotImplementedError("a gradient from the CPU")
    values = tensor.inner.detach().to(dtype, copy=True)
    if not non_blocking:
        wait()
        return values
    place = spoil(torch.empty_like(values))
    with _lock:
        state.coming.append((place, values))
    return place


def _copied(place: torch.Tensor, source: torch.Tensor, non_blocking: bool = False):
    if not isinstance(place, OnDevice):
        wait()
    elif not isinstance(source, OnDevice) and non_blocking and is_pinned(source):
        with _lock:
            state.leaving.append((source.detach(), source.detach().clone()))
    inner = (t.inner if isinstance(t, OnDevice) else t for t in (place, source))
    next(inner).copy_(next(inner))
    return place


def wait() -> None:
    """Wait for all copies."""
    with _lock:
        coming, leaving = state.coming, state.leaving
        state.coming, state.leaving = [], []
    for place, values in coming:
        place.copy_(values)
    written = [pinned for pinned, held in leaving if not pinned.equal(held)]
    if any(not pinned.isnan().any() for pinned in written):
        raise RuntimeError("pinned memory was written while a device could read it (pretended)")


def spoil(tensor: torch.Tensor) -> torch.Tensor:
    """Fill with values that nobody expects."""
    if tensor.dtype.is_floating_point:
        return tensor.fill_(float("nan"))
    return tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max - 86)


def is_pinned(tensor: torch.Tensor, device: Any = None) -> bool:
    return vars(tensor).get("pinned", False)


def pin_memory(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
    _use()
    copied = tensor.clone()
    copied.pinned = True
    return copied


# --- the device itself ----------------------------------------------------------------------------


def _use() -> None:
    if state.process not in (None, os.getpid()):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess (pretended)")
    state.process = os.getpid()


def count() -> int:
    return int(os.environ.get("RIB_PRETENDED_GPUS", "0"))


def with_index(device: Any) -> torch.device:
    index = torch.device(device).index
    index = getattr(_thread, "device", 0) if index is None else index
    if index >= count():
        raise RuntimeError(f"CUDA error: invalid device ordinal {index} (pretended)")
    return torch.device("cuda", index)


def set_device(device: Any) -> None:
    _use()
    _thread.device = with_index(f"cuda:{torch.cuda._utils._get_device_index(device)}").index


def properties(device: Any = None) -> SimpleNamespace:
    index = with_index("cuda" if device is None else device).index
    memory = min(state.limit, 80 << 30)
    return SimpleNamespace(name="pretended", uuid=f"GPU-{index}", total_memory=memory)


def _factory(name: str):
    func = getattr(getattr(aten, name.partition(".")[0]), name.partition(".")[2] or "default")

    def make(*args, device=None, pin_memory=None, layout=None, **kwargs) -> OnDevice:
        _use()
        made = func(*args, **kwargs, device="cpu")
        return OnDevice(spoil(made) if name.startswith("empty") else made, with_index(device))

    return make


def _same(value: Any):
    return lambda *_, **__: value


def _patched(owner: Any, name: str, changed: Any) -> None:
    """Put `changed` in a function's place, which it gets as its first argument."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: changed(original, *args, **kwargs))


def _sent(make, *args, device=None, **kwargs):
    return make(*args, **kwargs) if device is None else make(*args, **kwargs).to(device)


def _by_gloo(begin, backend, *args, **kwargs):
    begin(backend.replace("nccl", "gloo"), *args, **kwargs)


def _for_cpu(begin, self, kind, *args, **kwargs):
    begin(self, "cpu" if kind == "cuda" else kind, *args, **kwargs)


def _with_key(enter, self):
    torch._C._dispatch_tls_set_dispatch_key_included("AutocastCPU", True)
    return enter(self)


def install() -> None:
    """Give torch RIB_PRETENDED_GPUS devices; torch calls this in an `environment`."""
    if not count():
        return
    install.library = torch.library.Library("aten", "IMPL", "CUDA")
    words = {"allow_override": True}  # which older versions do not know, and do
    if "allow_override" not in inspect.signature(install.library.impl).parameters:
        words = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a CUDA build of torch has its own
        for name in _FACTORIES:
            install.library.impl(name, _factory(name), **words)
    stubs = {
        "is_available": _same(True), "is_initialized": _same(True), "_lazy_init": _same(None),
        "device_count": count, "current_device": lambda: getattr(_thread, "device", 0),
        "set_device": set_device, "get_device_properties": properties, "empty_cache": _same(None),
        "synchronize": lambda device=None: wait(), "get_device_name": _same("pretended"),
        "is_bf16_supported": _same(True), "max_memory_allocated": lambda device=None: state.peak,
        "reset_peak_memory_stats": lambda device=None: setattr(state, "peak", state.bytes),
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": _same(None),
    }  # fmt: skip
    for name, stub in stubs.items():
        setattr(torch.cuda, name, stub)
    of_any = torch.accelerator  # which a loader asks
    of_any.is_available, of_any.current_accelerator = _same(True), _same(torch.device("cuda"))
    of_any.current_device_index, of_any.set_device_index = torch.cuda.current_device, set_device
    torch.Tensor.to, torch.Tensor.pin_memory, torch.Tensor.is_pinned = to, pin_memory, is_pinned
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.utils._foreach_utils._foreach_supported_types.append(OnDevice)
    _patched(torch, "tensor", _sent)
    _patched(torch.distributed, "init_process_group", _by_gloo)
    _patched(torch.amp.autocast_mode.autocast, "__init__", _for_cpu)
    _patched(torch.amp.autocast_mode.autocast, "__enter__", _with_key)


if __name__ == "__main__":
    os.execvpe(sys.argv[2], sys.argv[2:], environment(int(sys.argv[1])))
