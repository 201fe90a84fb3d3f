"""A seccomp filter, assembled from the few BPF instructions that it needs.

Source: Linux `Documentation/userspace-api/seccomp_filter`.

It lists the system calls that a run may not make; all others are allowed, since torch, CUDA and compilers need many. So it is
one layer of several: which files a run may see is decided by others.
"""

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from research.sandbox.linux import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_NO_NEW_PRIVS,
    machine,
    prctl,
    syscall,
)

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # sockets: those that the judge gave stay usable, and socket pairs connect a process with its own children only
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # what bypasses the limits on files and memory
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # what outlives a process: keyrings, System V and POSIX message queues and shared memory
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "process_madvise": (440, 440),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "fanotify_init": (300, 262), "quotactl": (179, 60),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89), "syslog": (103, 116),
    "iopl": (172, None), "ioperm": (173, None), "personality": (135, 92),
    # the clock of the whole machine
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162),
}  # fmt: skip
"""System calls that a run may not make, with their numbers on x86_64 and aarch64."""

CHANGES_OF_ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
"""System calls that Landlock does not restrict on files that the run owns. If a run has no root folder of its own they do
nothing and report success, since much of Python copies attributes and fails when it can't."""

_CLONE, _CLONE3, _PRCTL, _IOCTL, _PRLIMIT = (56, 220), (435, 435), (157, 167), (16, 29), (302, 261)
_NEW_NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_AF_UNIX, _SOCK_SEQPACKET, _SOCK_NONBLOCK, _SOCK_CLOEXEC = 1, 5, 0o4000, 0o2000000

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


@dataclass(frozen=True, kw_only=True)
class ArgumentRule:
    """A system call that is refused depending on its arguments."""

    number: int
    argument: int
    """The argument that is tested, from 0; only its lower 32 bits."""
    any_bit: int = 0
    """The call is refused if one of these bits is set; 0: they are not tested."""
    equals: int | None = None
    """The call is refused if the argument has this value; None: it is not tested."""
    and_not: tuple[int, int] | None = None
    """Another argument (from 0) and its value with which a call that `equals` would refuse is allowed."""
    unless: Mapping[int, tuple[int, ...]] | None = None
    """If given, the only test: the call is refused unless each of these arguments has one of its values."""


def _rules(column: int) -> list[ArgumentRule]:
    return [
        ArgumentRule(number=_CLONE[column], argument=0, any_bit=_NEW_NAMESPACES),
        # a process can ask to be killed with its parent, but not take that back
        ArgumentRule(number=_PRCTL[column], argument=0, equals=_PR_SET_PDEATHSIG, and_not=(1, _SIGKILL)),
        # a process may lower its own limits, but no other's
        ArgumentRule(number=_PRLIMIT[column], argument=0, any_bit=0xFFFFFFFF),
        ArgumentRule(number=_IOCTL[column], argument=1, equals=_TIOCSTI),
        ArgumentRule(number=_IOCTL[column], argument=1, equals=_TIOCLINUX),
    ]


def run_program(*, keep_attributes: bool = False, cuda: bool = False) -> bytes:
    """The filter of a run: it refuses NUMBERS, and some calls depending on their arguments.

    With `keep_attributes`, CHANGES_OF_ATTRIBUTES do nothing.

    CUDA doesn't start unless it can listen on a Unix socket, by which processes share a descriptor. With `cuda` a run can make
    such sockets, but connect to none; sockets of this kind (SOCK_SEQPACKET) can't send without a connection.
    Raises OSError on an unknown machine.
    """
    column = _column()
    idle = _numbers(CHANGES_OF_ATTRIBUTES, column) if keep_attributes else []
    rules, refused = _rules(column), dict(NUMBERS)
    if cuda:
        number = NUMBERS["socket"][column]
        assert number is not None
        kinds = tuple(_SOCK_SEQPACKET | flags for flags in (0, _SOCK_CLOEXEC, _SOCK_NONBLOCK, _SOCK_CLOEXEC | _SOCK_NONBLOCK))
        rules.append(ArgumentRule(number=number, argument=0, unless={0: (_AF_UNIX,), 1: kinds}))
        refused = {name: pair for name, pair in NUMBERS.items() if name not in ("socket", "bind", "listen")}
    return _program(_numbers(refused, column), rules, column, idle=idle)


def install(program: bytes) -> None:
    """Puts this process and all that it starts under the filter, for good. Raises OSError if the kernel has no seccomp."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count and a pointer, with the compiler's padding between them
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    syscall("seccomp", ctypes.c_long(1), ctypes.c_long(0), ctypes.c_char_p(fprog))


def _numbers(calls: Mapping[str, tuple[int | None, int | None]], column: int) -> list[int]:
    return [number for pair in calls.values() if (number := pair[column]) is not None]


def _column() -> int:
    if machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine()}")
    return list(_ARCHITECTURES).index(machine())


def _program(numbers: Sequence[int], rules: Sequence[ArgumentRule], column: int, *, idle: Sequence[int] = ()) -> bytes:
    refuse = _instruction(_RETURN, value=_ERRNO | errno.EPERM)
    code = [
        _instruction(_LOAD, value=_ARCHITECTURE),
        _instruction(_JUMP_EQUAL, value=list(_ARCHITECTURES.values())[column], yes=1),
        _instruction(_RETURN, value=_KILL),
        _instruction(_LOAD, value=_NUMBER),
        _instruction(_JUMP_AT_LEAST, value=_X32, no=1),  # numbers of another table, which would bypass the list
        refuse,
    ]
    for number in numbers:
        code += [_instruction(_JUMP_EQUAL, value=number, no=1), refuse]
    for number in idle:
        code += [_instruction(_JUMP_EQUAL, value=number, no=1), _instruction(_RETURN, value=_ERRNO)]
    if rules:  # glibc falls back to clone, whose flags can be read
        code += [_instruction(_JUMP_EQUAL, value=_CLONE3[column], no=1), _instruction(_RETURN, value=_ERRNO | errno.ENOSYS)]
    for rule in rules:
        test = _tests(rule)
        code += [_instruction(_JUMP_EQUAL, value=rule.number, no=len(test)), *test]
    code.append(_instruction(_RETURN, value=_ALLOW))
    return b"".join(code)


def _tests(rule: ArgumentRule) -> list[bytes]:
    """The instructions that test a call with the rule's number; if it is not refused, they load the number again."""
    refuse = _instruction(_RETURN, value=_ERRNO | errno.EPERM)
    again = _instruction(_LOAD, value=_NUMBER)
    if rule.unless is not None:
        return [*_refused_unless(rule.unless, refuse), again]
    load = _instruction(_LOAD, value=_argument(rule.argument))
    if rule.any_bit:
        return [load, _instruction(_JUMP_ANY_BIT, value=rule.any_bit, no=1), refuse, again]
    assert rule.equals is not None
    if rule.and_not is None:
        return [load, _instruction(_JUMP_EQUAL, value=rule.equals, no=1), refuse, again]
    other, value = rule.and_not
    return [
        load,
        _instruction(_JUMP_EQUAL, value=rule.equals, no=3),
        _instruction(_LOAD, value=_argument(other)),
        _instruction(_JUMP_EQUAL, value=value, yes=1),
        refuse,
        again,
    ]


def _refused_unless(wanted: Mapping[int, tuple[int, ...]], refuse: bytes) -> list[bytes]:
    code = []
    for argument, values in wanted.items():
        code.append(_instruction(_LOAD, value=_argument(argument)))
        # each value that matches jumps over the values after it, and over the refusal
        code += [_instruction(_JUMP_EQUAL, value=value, yes=len(values) - i) for i, value in enumerate(values)]
        code.append(refuse)
    return code


def _argument(index: int) -> int:
    return 16 + 8 * index


def _instruction(code: int, *, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)
