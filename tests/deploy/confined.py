"""Gives up what a unit of systemd forbids, and becomes another program: ``confined.py PROFILE PROGRAM ARGUMENT…``.

It runs in a chroot, with the Python that is there, so it has the standard library only. PROFILE is a JSON file:
`user`, `system_calls` that are allowed, and whether memory can become executable.
"""

import ctypes
import errno
import json
import os
import pwd
import sys

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_MDWE = 38, 24, 65
MDWE_REFUSE_EXEC_GAIN = 1
SCMP_ACT_ERRNO_EPERM, SCMP_ACT_ALLOW = 0x00050000 | errno.EPERM, 0x7FFF0000

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option, argument):
    if libc.prctl(option, argument, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def allow_only(names):
    """Answer every other system call with EPERM. Names that this machine does not have are passed over."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(SCMP_ACT_ERRNO_EPERM))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            failed = seccomp.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0)
            assert not failed, name
    assert not seccomp.seccomp_load(context)


def main(profile, *command):
    with open(profile, encoding="utf-8") as file:
        wanted = json.load(file)
    name = wanted["user"].partition(":")[0]
    user = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # no such capability
                raise
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if wanted["refuse_new_code"]:
        prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN)
    if wanted["system_calls"]:
        allow_only(wanted["system_calls"])
    os.execv(command[0], command)  # noqa: S606 - that is its purpose


main(*sys.argv[1:])
