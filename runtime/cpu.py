"""Which CPU this is, from the text of /proc/cpuinfo. Pure functions; nothing is read here."""

# Features that change what fp32 and int8 arithmetic cost, as /proc/cpuinfo spells them.
_ARM_FEATURES = {"neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"}
_X86_FEATURES = {"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
_X86_FEATURES |= {"avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"}
# MIDR part numbers of the cores in the boards people use (implementer 0x41, Arm).
_ARM_CORES = {
    "0xb76": "ARM1176",
    "0xc07": "Cortex-A7",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
}


def cpu_model(cpuinfo: str) -> str:
    """Marketing or core name, several on big/little CPUs; empty if the text does not say."""
    parts = _values(cpuinfo, "CPU part")
    if parts and _values(cpuinfo, "CPU implementer") == ["0x41"]:
        return " + ".join(_ARM_CORES.get(part, f"Arm part {part}") for part in parts)
    return " + ".join(_values(cpuinfo, "model name"))


def isa_features(cpuinfo: str) -> tuple[str, ...]:
    """CPU features that change what arithmetic costs, sorted."""
    words = " ".join(_values(cpuinfo, "flags") + _values(cpuinfo, "Features")).split()
    return tuple(sorted((_ARM_FEATURES | _X86_FEATURES) & set(words)))


def _values(cpuinfo: str, key: str) -> list[str]:
    """Distinct values of ``key`` over all CPUs, in order."""
    pairs = (line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    return list(dict.fromkeys(v.strip() for k, v in pairs if k.strip() == key))
