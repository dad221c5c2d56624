"""The third wall against hostile models: a process that shuts itself in before it reads the first byte of one.

Afterwards it can compute, read the model's own files, and talk through the sockets that it was given, and nothing else: no other
file, no socket, no program, no process, no signal. Made of what Linux lets anybody do to themselves (no_new_privs, Landlock,
seccomp, resource limits), with the standard library alone. There is no way back.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution import jail_landlock, jail_syscalls
from cocoon_p2p.limits import JOB_BYTES_MAX, WORKER_FILES_MAX, WORKER_FILES_WITH_DEVICE_MAX

CPU = "cpu"
_CPU_PROVIDER = "CPUExecutionProvider"
_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38
"""Of prctl(2)."""
_KILL_SIGNAL = 9
_CAPABILITY_VERSION_3 = 0x20080522
_READ_FILES_OF_OTHERS = 1 << 2
"""CAP_DAC_READ_SEARCH, for a node that runs as root on an account's home; Landlock says which files those are."""
_PLACES_OF_DRIVERS = (
    "/usr", "/lib", "/lib64", "/opt", "/etc/ld.so.cache", "/sys", "/proc/self", "/proc/driver", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/devices", "/proc/modules", "/proc/version", "/proc/sys/vm",
)  # fmt: skip
_DEVICES = ("nvidia*", "nvidia-caps", "dri", "kfd", "null", "zero", "urandom")
"""Under /dev: what CUDA and ROCm open when a session is made."""


@dataclass(frozen=True, slots=True)
class JailSupport:
    """What this machine's kernel has for the jail."""

    landlock_abi: int
    """0: none, and a hostile model could read what the node's account can."""
    seccomp: bool
    reason: str
    """Why models from strangers are not run here, in one line; "" where they can be."""

    @property
    def complete(self) -> bool:
        """Whether models that the operator has not chosen himself may be run."""
        return self.landlock_abi > 0 and self.seccomp


def support() -> JailSupport:
    """Ask the kernel; takes microseconds and changes nothing."""
    if sys.platform != "linux":
        return JailSupport(0, False, f"there is no jail for model processes on {_system_name()}; Linux has one")
    landlock, seccomp = jail_landlock.abi(), jail_syscalls.filters_available()
    missing = [] if landlock else ["Landlock (Linux 5.13, if it is switched on: the boot option lsm=landlock,…)"]
    if not seccomp:
        known = jail_syscalls.machine_known()
        missing.append("seccomp filters" if known else f"a list of system calls for {platform.machine()}")
    return JailSupport(
        landlock, seccomp, f"the kernel, or its container, lacks {' and '.join(missing)}" if missing else ""
    )


def jail_for(provider: str) -> str:
    """The `device` of `enter_jail` for an execution provider of ONNX Runtime."""
    return CPU if provider == _CPU_PROVIDER else provider


def enter_jail(readable: Sequence[Path], *, memory_bytes: int | None, device: str, keep_output: bool = False) -> None:
    """Shut this process in. `readable`: the model's folder, or file; `memory_bytes`: what it may take beyond what it has now, None
    for no bound; `device` "cpu", else an accelerator, whose drivers need their devices and libraries, and much memory that is never
    used: they get the wider jail, without a bound of memory. `keep_output`: stdout and stderr are this process's own, and stay. Of what the
    kernel lacks nothing is done (`support` tells). To be called by a process's only thread: Landlock binds the thread that asks and those that it starts.
    Raises ExecutionError(code="WORKER") when a wall that the kernel has could not be put up."""
    found = support()
    try:
        _let_go_of_terminal(1 if keep_output else 3)
        _limit(memory_bytes, device)
        if sys.platform != "linux":
            return
        _check_alone()
        for option, value in (
            (_SET_NO_NEW_PRIVILEGES, 1),
            (_SET_DUMPABLE, 0),
            (_SET_PARENT_DEATH_SIGNAL, _KILL_SIGNAL),
        ):
            _prctl(option, value)
        if found.landlock_abi:
            libraries, devices = ((), ()) if device == CPU else (_places_of_drivers(), _device_files())
            jail_landlock.restrict([*readable, *libraries], devices)
        _drop_capabilities()
        if found.seccomp:
            jail_syscalls.install(jail_syscalls.filter_program(strict=device == CPU, pid=os.getpid()))
    except (OSError, ValueError) as error:
        raise ExecutionError(f"the model's process could not be shut in: {error}", code="WORKER") from error


def _let_go_of_terminal(streams: int) -> None:
    """The standard streams are the node's: its terminal, its log."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(streams):
        os.dup2(nowhere, number)
    if nowhere > 2:
        os.close(nowhere)


def _limit(memory_bytes: int | None, device: str) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    files = WORKER_FILES_MAX if device == CPU else WORKER_FILES_WITH_DEVICE_MAX
    bounds = {
        resource.RLIMIT_CORE: 0,  # a core file would hold jobs' inputs
        # Shared memory for outputs counts as a file; of real ones none can be opened for writing.
        resource.RLIMIT_FSIZE: 2 * JOB_BYTES_MAX,
        resource.RLIMIT_NOFILE: files,
    }
    if device == CPU:
        bounds[resource.RLIMIT_MEMLOCK] = 0
        if memory_bytes is not None and sys.platform == "linux":
            bounds[resource.RLIMIT_DATA] = _private_memory() + memory_bytes
    for kind, wanted in bounds.items():
        _, most = resource.getrlimit(kind)
        bound = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (bound, bound))


def _private_memory() -> int:
    """Bytes that count against RLIMIT_DATA already: private memory that can be written (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _check_alone() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise ValueError(f"{threads - 1} threads beside the one that asks would stay outside")


def _places_of_drivers() -> list[Path]:
    searched = [
        place for place in (*sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")) if os.path.isabs(place)
    ]
    return [Path(place) for place in (*_PLACES_OF_DRIVERS, sys.prefix, sys.base_prefix, *searched)]


def _device_files() -> list[Path]:
    return [path for pattern in _DEVICES for path in Path("/dev").glob(pattern)]


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def _drop_capabilities() -> None:
    """Root keeps none of its powers, but for reading the model's files where they are another account's."""
    number = {"x86_64": (125, 126), "aarch64": (90, 91)}.get(platform.machine())
    if number is None:
        return
    get, put = number
    libc = ctypes.CDLL(None, use_errno=True)
    head = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)
    if libc.syscall(ctypes.c_long(get), ctypes.c_char_p(head), held):
        raise OSError(ctypes.get_errno(), "capget")
    kept = struct.unpack_from("<III", held.raw)[1] & _READ_FILES_OF_OTHERS
    wanted = struct.pack("<IIIIII", kept, kept, 0, 0, 0, 0)
    if libc.syscall(ctypes.c_long(put), ctypes.c_char_p(head), ctypes.c_char_p(wanted)):
        raise OSError(ctypes.get_errno(), "capset")


def _system_name() -> str:
    return {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
