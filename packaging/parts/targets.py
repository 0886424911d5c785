"""The platforms a release is built for, and what each package format calls them."""

import re
import struct
from dataclasses import dataclass

from .project import Refused

# The newest glibc that the dynamically linked program may need: RHEL 7's, and the oldest that manylinux wheels name.
OLDEST_GLIBC = 17

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
PE_MACHINES = {"x86_64": 0x8664, "aarch64": 0xAA64}
MACH_CPUS = {"x86_64": 0x01000007, "aarch64": 0x0100000C}


@dataclass(frozen=True)
class Target:
    triple: str
    npm: tuple = ()
    """`process.platform`, `process.arch`"""
    wheel: str = ""
    linux: str = ""
    """The architecture as Debian and OCI name it, for .deb, .rpm and the image"""

    @property
    def cpu(self):
        return self.triple.split("-")[0]

    @property
    def is_windows(self):
        return "-windows-" in self.triple

    @property
    def program(self):
        return "qwenauth.exe" if self.is_windows else "qwenauth"

    @property
    def npm_name(self):
        return "@qwenauth/" + "-".join(self.npm)


def linux_wheel(cpu):
    """One static program satisfies both families."""
    return f"manylinux_2_17_{cpu}.manylinux2014_{cpu}.musllinux_1_1_{cpu}"


TARGETS = [
    # Static: every Linux package but one archive is made of these two.
    Target("x86_64-unknown-linux-musl", ("linux", "x64"), linux_wheel("x86_64"), "amd64"),
    Target("aarch64-unknown-linux-musl", ("linux", "arm64"), linux_wheel("aarch64"), "arm64"),
    # For hosts whose names are resolved by modules of the C library (LDAP, mDNS, SSSD): an archive only.
    Target("x86_64-unknown-linux-gnu"),
    Target("aarch64-unknown-linux-gnu"),
    Target("aarch64-apple-darwin", ("darwin", "arm64"), "macosx_11_0_arm64"),
    Target("x86_64-apple-darwin", ("darwin", "x64"), "macosx_10_12_x86_64"),
    Target("x86_64-pc-windows-msvc", ("win32", "x64"), "win_amd64"),
    Target("aarch64-pc-windows-msvc", ("win32", "arm64"), "win_arm64"),
]
# What Windows programs are when they are cross-built on Linux; packaged like the other, never beside it.
TRIAL_TARGETS = [Target("x86_64-pc-windows-gnu", ("win32", "x64"), "win_amd64")]


def check(target, program):
    """Refuses a program that would not start where its package says it does."""
    wrong = None
    if "-linux-" in target.triple:
        wrong = check_elf(target, program)
    elif target.is_windows:
        wrong = check_pe(target, program)
    elif len(program) < 8 or struct.unpack_from("<II", program) != (0xFEEDFACF, MACH_CPUS[target.cpu]):
        wrong = f"is not a Mach-O program for {target.cpu}"
    if wrong:
        raise Refused(f"the program for {target.triple} {wrong}")


def check_elf(target, program):
    if program[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", program, 18)[0] != ELF_MACHINES[target.cpu]:
        return f"is not an ELF program for {target.cpu}"
    if struct.unpack_from("<H", program, 16)[0] != 3:  # ET_DYN
        return "is not position independent"
    offset, size, count = struct.unpack_from("<Q14xHH", program, 32)
    kinds = {struct.unpack_from("<I", program, offset + index * size)[0] for index in range(count)}
    asks_for_loader = 3 in kinds  # PT_INTERP
    if target.triple.endswith("-musl"):
        return "is not static: it names a loader" if asks_for_loader else None
    if not asks_for_loader:
        return "is static, not linked against glibc"
    versions = {int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)(?=[.\0])", program)}
    newest = max(versions, default=0)
    return f"needs glibc 2.{newest}; at most 2.{OLDEST_GLIBC} is promised" if newest > OLDEST_GLIBC else None


def check_pe(target, program):
    if program[:2] != b"MZ" or len(program) < 64:
        return "is not a Windows program"
    at = struct.unpack_from("<I", program, 60)[0]
    if program[at : at + 4] != b"PE\0\0" or struct.unpack_from("<H", program, at + 4)[0] != PE_MACHINES[target.cpu]:
        return f"is not a Windows program for {target.cpu}"
    return None
