"""The system calls that a jailed worker may make, as a seccomp filter (seccomp(2), Linux' Documentation/userspace-api/
seccomp_filter.rst).

On a CPU only what is named here is let through: all that ONNX Runtime, its threads and Python need once everything is
imported. The libraries of an accelerator's maker do what they like, and differ from release to release; for them only what is
named is refused, and Landlock bounds the rest.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_NEWEST = 424
"""From here on numbers are the same everywhere. A kernel that does not know a new call says ENOSYS, and libraries then take an
older one; so does the filter."""

# --- classic BPF (linux/bpf_common.h) --------------------------------------------------------------------------------
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_PERMISSION, _NO_SUCH_CALL = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
"""Offsets in struct seccomp_data."""

# --- numbers: x86-64, aarch64; None where a machine lacks the call ---------------------------------------------------
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "preadv": (295, 69),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17), "fadvise64": (221, 223), "statfs": (137, 43), "fstatfs": (138, 44),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441),
    "eventfd2": (290, 19), "pipe": (22, None), "pipe2": (293, 59),
    "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214), "mincore": (27, 232),
    "membarrier": (324, 283), "msync": (26, 227), "get_mempolicy": (239, 236),
    "memfd_create": (319, 279), "ftruncate": (77, 46),
    "recvmsg": (47, 212), "recvfrom": (45, 207), "sendmsg": (46, 211), "sendto": (44, 206), "shutdown": (48, 210),
    "getsockopt": (55, 209), "setsockopt": (54, 208), "getsockname": (51, 204), "getpeername": (52, 205),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "times": (100, 153), "getrusage": (98, 165),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293), "futex": (202, 98),
    "futex_waitv": (449, 449), "futex_wake": (454, 454), "futex_wait": (455, 455), "futex_requeue": (456, 456),
    "exit": (60, 93), "exit_group": (231, 94), "gettid": (186, 178), "getpid": (39, 172), "getppid": (110, 173),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168), "getrandom": (318, 278), "uname": (63, 160), "sysinfo": (99, 179), "getrlimit": (97, 163),
}  # fmt: skip
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # reaching others: the network, other processes
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180),
    # another program, another process
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    # what Landlock does not look at: owners, modes, times, attributes
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # who one is, where one stands
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143), "setresuid": (117, 147),
    "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152), "setgroups": (116, 159), "capset": (126, 91),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40),
    "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "personality": (135, 92),
    "setrlimit": (160, 164),
    # large parts of the kernel, each with a history of holes
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "userfaultfd": (323, 282), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # the machine itself
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "syslog": (103, 116), "quotactl": (179, 60), "quotactl_fd": (443, 443), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
}  # fmt: skip
REFUSED_CALLS = frozenset(_REFUSED)
"""Names of what no jail lets through."""
_RULED = {
    "clone": (56, 220), "prctl": (157, 167), "fcntl": (72, 25), "ioctl": (16, 29), "prlimit64": (302, 261),
    "tgkill": (234, 131), "open": (2, None), "openat": (257, 56), "mmap": (9, 222), "mprotect": (10, 226),
}  # fmt: skip

# --- arguments (linux/sched.h, prctl.h, fcntl.h, asm-generic/ioctls.h, mman-common.h) ---------------------------------
_CLONE_THREAD = 0x10000
_PRCTL_HARMLESS = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory. No way back from "not dumpable"."""
_FCNTL_HARMLESS = (0, 1, 2, 3, 4, 1030, 1033, 1034)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS. F_SETOWN sends signals to others."""
_IOCTL_HARMLESS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_IOCTL_HARMFUL = (0x5412, 0x541C, 0x5452, 0x8901, 0x8902)
"""TIOCSTI and TIOCLINUX type into a terminal; FIOASYNC, FIOSETOWN and SIOCSPGRP send signals."""
_OPEN_TO_CHANGE = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and the bit of O_TMPFILE."""
_PROT_EXEC = 4


@dataclass(frozen=True, slots=True)
class _Rule:
    """When a call is let through: by the lower half of its argument number `argument`, which is all that the kernel reads of
    these."""

    name: str
    argument: int
    one_of: tuple[int, ...] = ()
    none_of: tuple[int, ...] = ()
    all_bits: int = 0
    no_bits: int = 0


def machine_known() -> bool:
    """Whether there is a filter for this machine."""
    return sys.platform == "linux" and sys.byteorder == "little" and platform.machine() in _COLUMN


def number_of(name: str) -> int | None:
    """A system call's number on this machine; None where it is not there, or the machine is not known."""
    column = _COLUMN.get(platform.machine())
    entry = _ALLOWED.get(name) or _REFUSED.get(name) or _RULED.get(name)
    return None if column is None or entry is None else entry[column]


def filter_program(*, strict: bool, pid: int) -> bytes:
    """The filter, an array of struct sock_filter. `strict` lets through what is named only; else what is named is refused.
    `pid` is the process that it is for: it may signal itself. Raises KeyError on a machine that is not known."""
    machine = platform.machine()
    column = _COLUMN[machine]
    code = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL)]
    code.append((_LOAD, 0, 0, _NUMBER_AT))
    code += _answer(435, _NO_SUCH_CALL)  # clone3 takes a pointer, which no filter can follow; libraries then take clone
    for rule in _rules(strict=strict, pid=pid):
        number = _RULED[rule.name][column]
        if number is not None:
            code += _ruled(number, rule)
    for numbers in (_ALLOWED if strict else _REFUSED).values():
        number = numbers[column]
        if number is not None:
            code += _answer(number, _ALLOW if strict else _refusal(number))
    if strict:
        code += [(_AT_LEAST, 0, 1, _NEWEST), (_RETURN, 0, 0, _NO_SUCH_CALL), (_RETURN, 0, 0, _PERMISSION)]
    else:  # numbers from 2^30 are those of x32, a second door to the same calls
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _NO_SUCH_CALL), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *each) for each in code)


def install(program: bytes) -> None:
    """Bind this thread, and all that it will start, to the filter for good. Needs no_new_privs. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)), 16)
    set_seccomp, mode_filter = 22, 2
    if libc.prctl(set_seccomp, mode_filter, ctypes.byref(head), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"the filter of system calls was refused: {os.strerror(number)}")


def filters_available() -> bool:
    """Whether this kernel takes filters. Changes nothing."""
    if not machine_known():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp, get_action_avail = {"x86_64": 317, "aarch64": 277}[platform.machine()], 2
    action = ctypes.c_uint32(_ERRNO)
    result: int = libc.syscall(ctypes.c_long(seccomp), get_action_avail, 0, ctypes.byref(action))
    return result == 0


def _rules(*, strict: bool, pid: int) -> Iterator[_Rule]:
    yield _Rule("clone", 0, all_bits=_CLONE_THREAD)
    yield _Rule("prctl", 0, one_of=_PRCTL_HARMLESS)
    yield _Rule("fcntl", 1, one_of=_FCNTL_HARMLESS)
    yield _Rule("prlimit64", 0, one_of=(0, pid))
    yield _Rule("tgkill", 0, one_of=(pid,))
    if not strict:
        yield _Rule("ioctl", 1, none_of=_IOCTL_HARMFUL)
        return
    yield _Rule("ioctl", 1, one_of=_IOCTL_HARMLESS)
    yield _Rule("open", 1, no_bits=_OPEN_TO_CHANGE)
    yield _Rule("openat", 2, no_bits=_OPEN_TO_CHANGE)
    yield _Rule("mmap", 2, no_bits=_PROT_EXEC)
    yield _Rule("mprotect", 2, no_bits=_PROT_EXEC)


def _answer(number: int, verdict: int) -> list[tuple[int, int, int, int]]:
    return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]


def _refusal(number: int) -> int:
    return _PERMISSION if number < _NEWEST else _NO_SUCH_CALL


def _ruled(number: int, rule: _Rule) -> list[tuple[int, int, int, int]]:
    block = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * rule.argument)]
    for value in rule.one_of:
        block += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    for value in rule.none_of:
        block += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _PERMISSION)]
    if rule.all_bits:  # a single bit
        block += [(_ANY_BIT, 0, 1, rule.all_bits), (_RETURN, 0, 0, _ALLOW)]
    if rule.no_bits:
        block += [(_ANY_BIT, 0, 1, rule.no_bits), (_RETURN, 0, 0, _PERMISSION)]
    block.append((_RETURN, 0, 0, _ALLOW if rule.none_of or rule.no_bits else _PERMISSION))
    return [(_EQUAL, 0, len(block), number), *block]
