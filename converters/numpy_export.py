"""Prepared module -> ``model.plan`` for the NumPy engine, one file for each precision.

variants = export_numpy(prepared, ("int8",), load_profile("rpi4"), staging_folder)
"""

from pathlib import Path

from edgeformer.converters.exits import cuts, exit_table, with_every_exit
from edgeformer.converters.plan.cut import cut_program
from edgeformer.converters.plan.lower import lower
from edgeformer.converters.plan.write import write_plan
from edgeformer.converters.prepared import PreparedModel
from edgeformer.device_profiles.profile import DeviceProfile, Storage
from edgeformer.errors import ModelError
from edgeformer.runtime.manifest import Variant

_PRECISIONS = ("fp32", "int8")
_TILE_WIDTH = 64


def export_numpy(
    prepared: PreparedModel, precisions: tuple[str, ...], profile: DeviceProfile, root: Path
) -> tuple[Variant, ...]:
    """Lower the module once and write it at each precision.

    Args:
        prepared: what to convert.
        precisions: of ``fp32`` and ``int8``.
        profile: tells the CPU. A plan runs on any, but where there is AVX512 tiled weights are
            faster.
        root: staging folder of the bundle; files go to ``root/numpy-PRECISION/model.plan``.

    Returns:
        one variant for each precision, without parity. ``layout`` is ``packed`` where padding
        can be left out; else ``note`` says why not.

    Raises:
        ModelError: an operation or precision that plans do not have.
    """
    for precision in precisions:
        if precision not in _PRECISIONS:
            raise ModelError(
                f"the NumPy engine has no {precision}",
                hint=f"set quantization.numpy of the profile to one of: {', '.join(_PRECISIONS)}",
            )
    lowered = lower(with_every_exit(prepared))
    programs = cuts(prepared)
    graphs = {cut.name: (lowered.layout, cut_program(lowered.graph, cut)) for cut in programs}
    tile_width = _TILE_WIDTH if "avx512f" in profile.cpu.isa else 0
    variants = []
    for precision in precisions:
        variant_id = f"numpy-{precision}"
        file = f"{variant_id}/model.plan"
        (root / variant_id).mkdir(parents=True, exist_ok=True)
        write_plan(root / file, graphs, precision, tile_width, profile.storage)
        notes = (lowered.note, _stored_as(precision, profile.storage))
        variants.append(
            Variant(
                id=variant_id,
                engine="numpy",
                precision=precision,
                layout=lowered.layout,
                note="; ".join(filter(None, notes)),
                provider="",
                programs={cut.name: cut.program(file) for cut in programs},
                exits=exit_table(prepared),
            )
        )
    return tuple(variants)


def _stored_as(precision: str, storage: Storage) -> str:
    """One sentence where the file holds other values than the engine computes with."""
    if precision == "fp32" or storage.weights == "int8":
        return ""
    return (
        f"weights stored as {storage.weights}, a range for each {storage.ranges}, decoded to"
        f" {storage.decoded}"
    )
