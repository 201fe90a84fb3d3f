"""The system calls that a run may not make, or that do nothing in it, with their numbers on x86_64 and aarch64.

Besides calls that reach for other processes, for mounts or for the kernel itself, these are the calls by which two processes
that never run at the same time could tell each other something although neither can write a file: they read or set what the
kernel keeps for each file that both can read, such as locks, leases, write hints, the pages and names in its caches, and the
NUMA nodes that those pages lie on.

Covers the calls of Linux up to 6.18.
"""

import errno
from dataclasses import dataclass

from research.sandbox.linux import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
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
    # on which NUMA node the pages of a file lie
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # the kernel itself
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "fanotify_init": (300, 262), "quotactl": (179, 60),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89), "syslog": (103, 116),
    "iopl": (172, None), "ioperm": (173, None), "personality": (135, 92), "open_tree_attr": (467, 467),
    # the clock of the whole machine
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162),
}  # fmt: skip
"""System calls that a run may not make, with their numbers on x86_64 and aarch64."""

CHANGES_OF_ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466),
}  # fmt: skip
"""System calls that Landlock does not restrict on files that the run owns. If a run has no root folder of its own they do
nothing and report success, since much of Python copies attributes and fails when it can't."""

UNSUPPORTED: dict[str, tuple[int | None, int | None]] = {
    # who opens or reads a file
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27), "fanotify_mark": (301, 263),
    "lookup_dcookie": (212, 18),
    # what the kernel has in its caches, which options of openat2 (RESOLVE_CACHED) and io_submit (RWF_NOWAIT) tell as well; a
    # filter can't read the memory in which these are given
    "mincore": (27, 232), "cachestat": (451, 451), "openat2": (437, 437), "io_setup": (206, 0), "io_submit": (209, 2),
    # mounts, namespaces, quotas and attributes beyond those that stat gives
    "statmount": (457, 457), "listmount": (458, 458), "listns": (470, 470), "quotactl_fd": (443, 443),
    "file_getattr": (468, 468), "file_setattr": (469, 469),
    # other processes
    "process_mrelease": (448, 448),
}  # fmt: skip
"""System calls that are answered as by a kernel that lacks them (ENOSYS), since libraries that make them can do without."""

IDLE: dict[str, tuple[int | None, int | None]] = {
    "flock": (73, 32), "fadvise64": (221, 223), "readahead": (187, 213), "sync": (162, 81), "syncfs": (306, 267),
    "sync_file_range": (277, 84),
}  # fmt: skip
"""System calls that do nothing and report success: locks, which a run without company doesn't need, and advice to caches."""

CLONE3 = (435, 435)


@dataclass(frozen=True, kw_only=True)
class Test:
    """A condition on one argument of a system call; of the fields after `mask`, one is given."""

    argument: int
    """The argument, from 0; only its lower 32 bits are tested."""
    mask: int = 0xFFFFFFFF
    """The bits that are compared."""
    any_bit: int = 0
    """Holds if one of these bits is set."""
    one_of: tuple[int, ...] = ()
    """Holds if the argument has one of these values."""
    none_of: tuple[int, ...] = ()
    """Holds if the argument has none of these values."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A system call that is answered by the filter if all of its tests hold."""

    numbers: tuple[int, int]
    """Its numbers on x86_64 and aarch64."""
    when: tuple[Test, ...]
    answer: int = errno.EPERM
    """The errno that it fails with; 0: it does nothing and reports success."""


_NEW_NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
_PR_SET_PDEATHSIG, _PR_SET_MEMORY_MERGE, _SIGKILL = 1, 67, 9
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FILE_SYSTEM_IOCTLS = (0x6600, 0x5800, 0x9400)
"""The types of ioctls that Linux's file systems share, of ext4 and PAGEMAP_SCAN (f), of XFS (X) and of Btrfs."""

_CLONE, _PRCTL, _IOCTL, _PRLIMIT, _FCNTL, _MADVISE = (56, 220), (157, 167), (16, 29), (302, 261), (72, 25), (28, 233)
_MBIND, _GET_MEMPOLICY, _PREADV2, _PWRITEV2 = (237, 235), (239, 236), (327, 286), (328, 287)

_SETS_A_LOCK = (6, 7, 13, 14, 37, 38)
"""F_SETLK, F_SETLKW, their 64-bit aliases, F_OFD_SETLK and F_OFD_SETLKW."""
_ASKS_FOR_A_LOCK = (5, 12, 36)
"""F_GETLK, its 64-bit alias and F_OFD_GETLK, whose result can't be left as it is: it would name a lock."""
_HARMLESS = (*range(5), *range(8, 12), 15, 16, 17, 1027, *range(1030, 1035))
"""Commands of fcntl that concern a descriptor, a pipe or a memfd of one's own. F_SETLEASE, F_NOTIFY and F_SET_RW_HINT are not
among them: the last one leaves a number with a file that only needs to be readable."""

_MADV_MERGEABLE, _MADV_COLD, _MADV_PAGEOUT, _MADV_COLLAPSE = 12, 20, 21, 25
_MPOL_F_NODE_OR_ADDRESS, _MPOL_MF_MOVE_OR_MOVE_ALL = 0b11, 0b110

RULES = (
    Rule(numbers=_CLONE, when=(Test(argument=0, any_bit=_NEW_NAMESPACES),)),
    # a process can ask to be killed with its parent, but not take that back
    Rule(numbers=_PRCTL, when=(Test(argument=0, one_of=(_PR_SET_PDEATHSIG,)), Test(argument=1, none_of=(_SIGKILL,)))),
    # pages of equal contents would be shared with other processes, and writing to them takes longer
    Rule(numbers=_PRCTL, when=(Test(argument=0, one_of=(_PR_SET_MEMORY_MERGE,)),), answer=errno.EINVAL),
    Rule(numbers=_MADVISE, when=(Test(argument=2, one_of=(_MADV_MERGEABLE, _MADV_COLD, _MADV_PAGEOUT)),), answer=0),
    Rule(numbers=_MADVISE, when=(Test(argument=2, one_of=(_MADV_COLLAPSE,)),), answer=errno.EINVAL),
    # a process may lower its own limits, but no other's
    Rule(numbers=_PRLIMIT, when=(Test(argument=0, any_bit=0xFFFFFFFF),)),
    Rule(numbers=_IOCTL, when=(Test(argument=1, one_of=(_TIOCSTI, _TIOCLINUX)),)),
    Rule(numbers=_IOCTL, when=(Test(argument=1, mask=0xFF00, one_of=_FILE_SYSTEM_IOCTLS),), answer=errno.ENOTTY),
    Rule(numbers=_FCNTL, when=(Test(argument=1, one_of=_SETS_A_LOCK),), answer=0),
    Rule(numbers=_FCNTL, when=(Test(argument=1, one_of=_ASKS_FOR_A_LOCK),)),
    Rule(numbers=_FCNTL, when=(Test(argument=1, none_of=_HARMLESS),), answer=errno.EINVAL),
    Rule(numbers=_PREADV2, when=(Test(argument=5, any_bit=0xFFFFFFFF),), answer=errno.EOPNOTSUPP),
    Rule(numbers=_PWRITEV2, when=(Test(argument=5, any_bit=0xFFFFFFFF),), answer=errno.EOPNOTSUPP),
    Rule(numbers=_MBIND, when=(Test(argument=5, any_bit=_MPOL_MF_MOVE_OR_MOVE_ALL),)),
    Rule(numbers=_GET_MEMPOLICY, when=(Test(argument=4, any_bit=_MPOL_F_NODE_OR_ADDRESS),)),
)
"""System calls that are refused, or do nothing, depending on their arguments."""
