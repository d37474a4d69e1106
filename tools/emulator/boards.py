"""Which CPUs, operating systems and packages are emulated: data, and nothing else.

A ``Board`` is one CPU under one operating system with one choice of packages. Its name is
``CPU-USERLAND-SITES``: ``cortex-a72-bookworm-wheels``.
"""

from dataclasses import dataclass

from tools.emulator.debian import Packages

HOST = "host"
REFERENCE_BLAS = "blas"

# What qemu is unpacked from. Its plugin interface (instructions.c) changed in later releases.
QEMU_SUITE = "bookworm"
QEMU_PACKAGES = ("qemu-user",)
QEMU_PROGRAMS = ("qemu-aarch64", "qemu-arm", "qemu-x86_64")


@dataclass(frozen=True)
class Cpu:
    """One CPU model.

    Attributes:
        name: as Arm or Intel spell it.
        model: as qemu spells it.
        qemu: program that emulates it.
        users: the machines that have it.
        cpuinfo: lines of its /proc/cpuinfo (qemu shows the host's, on which onnxruntime crashes).
    """

    name: str
    model: str
    qemu: str
    users: str
    cpuinfo: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Userland:
    """One operating system: Debian packages, and where its libraries lie.

    Attributes:
        python: version, for choosing wheels.
        triplet: folder of libraries under usr/lib.
        wheel_platform: as in the names of wheels; empty if the package index has none.
    """

    packages: Packages
    python: str
    triplet: str
    wheel_platform: str


@dataclass(frozen=True)
class Board:
    """One CPU, one userland, the wheels on top of it, and the BLAS that Debian's numpy gets.

    Attributes:
        cpu: key of ``CPUS``.
        userland: key of ``USERLANDS``, or ``HOST``: this host's own Python and what it has.
        sites: keys of ``SITES``; none means Debian's own packages only.
        blas: folder of Debian's BLAS under its library folder.
    """

    cpu: str
    userland: str
    sites: tuple[str, ...] = ()
    blas: str = "openblas-pthread"

    @property
    def name(self) -> str:
        """Unique, and a folder name."""
        blas = ("reference-blas",) if self.blas == REFERENCE_BLAS else ()
        return "-".join((self.cpu, self.userland, *self.sites, *blas))


def _arm64(part: str, variant: str, revision: str, extra: str = "") -> tuple[tuple[str, str], ...]:
    features = f"fp asimd evtstrm {extra}crc32 cpuid"
    return (
        ("BogoMIPS", "108.00"),
        ("Features", features),
        ("CPU implementer", "0x41"),
        ("CPU architecture", "8"),
        ("CPU variant", variant),
        ("CPU part", part),
        ("CPU revision", revision),
    )


def _arm32(part: str, model: str, features: str) -> tuple[tuple[str, str], ...]:
    return (
        ("model name", model),
        ("BogoMIPS", "38.40"),
        ("Features", features),
        ("CPU implementer", "0x41"),
        ("CPU architecture", "7"),
        ("CPU variant", "0x0"),
        ("CPU part", part),
        ("CPU revision", "5"),
    )


_A76 = "aes pmull sha1 sha2 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp "
_A7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"

# less what qemu does not emulate and would warn about
_HASWELL_MODEL = "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid"
_HASWELL = (
    "fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c bmi1 avx2 bmi2"
)

CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu(
            "cortex-a53",
            "cortex-a53",
            "qemu-aarch64",
            "Raspberry Pi 3, Zero 2 W",
            _arm64("0xd03", "0x0", "4"),
        ),
        Cpu(
            "cortex-a72",
            "cortex-a72",
            "qemu-aarch64",
            "Raspberry Pi 4",
            _arm64("0xd08", "0x0", "3"),
        ),
        Cpu(
            "cortex-a76",
            "cortex-a76",
            "qemu-aarch64",
            "Raspberry Pi 5",
            _arm64("0xd0b", "0x4", "1", _A76),
        ),
        Cpu(
            "cortex-a7",
            "cortex-a7",
            "qemu-arm",
            "Raspberry Pi 2, and any later one with a 32-bit system",
            _arm32("0xc07", "ARMv7 Processor rev 5 (v7l)", _A7),
        ),
        Cpu(
            "arm1176",
            "arm1176",
            "qemu-arm",
            "Raspberry Pi 1, Zero",
            _arm32(
                "0xb76", "ARMv6-compatible processor rev 7 (v6l)", "half thumb fastmult vfp edsp"
            ),
        ),
        Cpu(
            "haswell",
            _HASWELL_MODEL,
            "qemu-x86_64",
            "x86-64 with AVX2 and without VNNI",
            (("vendor_id", "GenuineIntel"), ("model name", "Haswell"), ("flags", _HASWELL)),
        ),
    )
}

_PYTHON = ("base-files", "python3", "python3-numpy", "libstdc++6")
_OPENBLAS = (*_PYTHON, "libblas3", "liblapack3", "libopenblas0-pthread")

USERLANDS = {
    "bookworm": Userland(
        Packages("arm64", "bookworm", _OPENBLAS), "3.11", "aarch64-linux-gnu", "aarch64"
    ),
    "trixie": Userland(
        Packages("arm64", "trixie", _OPENBLAS), "3.13", "aarch64-linux-gnu", "aarch64"
    ),
    "bookworm-armhf": Userland(
        Packages("armhf", "bookworm", _OPENBLAS), "3.11", "arm-linux-gnueabihf", "armv7l"
    ),
    "bookworm-armel": Userland(
        Packages("armel", "bookworm", _PYTHON), "3.11", "arm-linux-gnueabi", ""
    ),
}

# Wheels by the name of the folder they go to; requirements.lock pins those without a version.
SITES = {
    "numpy2": ("numpy",),
    "engines": ("onnxruntime", "ai-edge-litert", "flatbuffers", "typing_extensions"),
    "onnxruntime1210": ("onnxruntime==1.21.0", "flatbuffers"),
    "tflite-runtime": ("tflite-runtime==2.14.0",),
}

WHEELS = ("engines", "numpy2")  # what `pip install "edgeformer[onnx,tflite]"` brings

# The first is the board that continuous integration runs.
BOARDS = (
    Board("cortex-a72", "bookworm", WHEELS),
    Board("cortex-a53", "bookworm", WHEELS),
    Board("cortex-a76", "bookworm", WHEELS),
    Board("cortex-a72", "trixie", WHEELS),
    Board("cortex-a72", "bookworm", ("engines",)),
    Board("cortex-a72", "bookworm"),
    Board("cortex-a72", "bookworm", blas=REFERENCE_BLAS),
    Board("cortex-a76", "trixie"),
    Board("cortex-a7", "bookworm-armhf", ("tflite-runtime",)),
    Board("arm1176", "bookworm-armel", blas=REFERENCE_BLAS),
    Board("haswell", HOST),
)

# What must fail there does: tests/arm/test_controls.py.
CONTROLS = (
    Board("cortex-a53", "bookworm", ("onnxruntime1210",)),
    Board("cortex-a72", "bookworm", ("onnxruntime1210",)),
    Board("cortex-a76", "bookworm", ("onnxruntime1210",)),
    Board("cortex-a72", "bookworm", ("tflite-runtime", "numpy2")),
)
