"""A seccomp filter, assembled from the few BPF instructions that it needs.

Source: Linux `Documentation/userspace-api/seccomp_filter`.

It lists the system calls that a run may not make (`system_calls.py`); all others are allowed, since torch, CUDA and compilers
need many. So it is one layer of several: which files a run may see is decided by others.
"""

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence

from research.sandbox.linux import PR_SET_NO_NEW_PRIVS, machine, prctl, syscall
from research.sandbox.system_calls import CHANGES_OF_ATTRIBUTES, CLONE3, IDLE, NUMBERS, RULES, UNSUPPORTED, Rule, Test

_AF_UNIX, _SOCK_SEQPACKET, _SOCK_NONBLOCK, _SOCK_CLOEXEC = 1, 5, 0o4000, 0o2000000
_KINDS_FOR_CUDA = tuple(_SOCK_SEQPACKET | flags for flags in (0, _SOCK_CLOEXEC, _SOCK_NONBLOCK, _SOCK_CLOEXEC | _SOCK_NONBLOCK))

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT = 0x05, 0x15, 0x35, 0x45
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def run_program(*, keep_attributes: bool = False, cuda: bool = False) -> bytes:
    """The filter of a run: calls that it refuses, calls that do nothing, and some that depend on their arguments.

    With `keep_attributes`, CHANGES_OF_ATTRIBUTES do nothing.

    CUDA doesn't start unless it can listen on a Unix socket, by which processes share a descriptor. With `cuda` a run can make
    such sockets, but connect to none; sockets of this kind (SOCK_SEQPACKET) can't send without a connection.
    Raises OSError on an unknown machine.
    """
    column = _column()
    rules: tuple[Rule, ...] = RULES
    refused = NUMBERS
    if cuda:
        number, other = NUMBERS["socket"]
        assert number is not None and other is not None
        refused = {name: pair for name, pair in NUMBERS.items() if name not in ("socket", "bind", "listen")}
        rules = (
            *RULES,
            Rule(numbers=(number, other), when=(Test(argument=0, none_of=(_AF_UNIX,)),)),
            Rule(numbers=(number, other), when=(Test(argument=1, none_of=_KINDS_FOR_CUDA),)),
        )
    answers = {
        errno.EPERM: refused,
        errno.ENOSYS: UNSUPPORTED,
        0: {**IDLE, **(CHANGES_OF_ATTRIBUTES if keep_attributes else {})},
    }
    return _program({answer: _numbers(calls, column) for answer, calls in answers.items()}, rules, column)


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


def _program(answers: Mapping[int, Sequence[int]], rules: Sequence[Rule], column: int) -> bytes:
    """The filter that gives the calls of these numbers an errno, by errno, and then applies the rules."""
    code = [
        _instruction(_LOAD, value=_ARCHITECTURE),
        _instruction(_JUMP_EQUAL, value=list(_ARCHITECTURES.values())[column], yes=1),
        _instruction(_RETURN, value=_KILL),
        _instruction(_LOAD, value=_NUMBER),
        _instruction(_JUMP_AT_LEAST, value=_X32, no=1),  # numbers of another table, which would bypass the list
        _answer(errno.EPERM),
    ]
    for answer, numbers in answers.items():
        for number in numbers:
            code += [_instruction(_JUMP_EQUAL, value=number, no=1), _answer(answer)]
    # glibc falls back to clone, whose flags can be read
    code += [_instruction(_JUMP_EQUAL, value=CLONE3[column], no=1), _answer(errno.ENOSYS)]
    for rule in rules:
        tests = _tests(rule)
        code += [_instruction(_JUMP_EQUAL, value=rule.numbers[column], no=len(tests)), *tests]
    code.append(_instruction(_RETURN, value=_ALLOW))
    return b"".join(code)


def _tests(rule: Rule) -> list[bytes]:
    """The instructions that test a call with the rule's number; if it is not answered, they load the number again."""
    code = [_answer(rule.answer)]
    for test in reversed(rule.when):
        code = [*_test(test, fails=len(code)), *code]
    return [*code, _instruction(_LOAD, value=_NUMBER)]


def _test(test: Test, *, fails: int) -> list[bytes]:
    """The instructions of one test, which jump over the `fails` instructions behind them if it does not hold."""
    code = [_instruction(_LOAD, value=16 + 8 * test.argument), _instruction(_AND, value=test.mask)]
    fail = _instruction(_JUMP, value=fails)
    if test.any_bit:
        return [*code, _instruction(_JUMP_ANY_BIT, value=test.any_bit, yes=1), fail]
    values = test.one_of or test.none_of
    # a value that matches jumps over the values after it, and over one more instruction
    code += [_instruction(_JUMP_EQUAL, value=value, yes=len(values) - i) for i, value in enumerate(values)]
    return [*code, fail] if test.one_of else [*code, _instruction(_JUMP, value=1), fail]


def _answer(number: int) -> bytes:
    return _instruction(_RETURN, value=_ERRNO | number)


def _instruction(code: int, *, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)
