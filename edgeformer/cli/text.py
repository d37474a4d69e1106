"""How results look on a terminal: pure functions from results to text. No click, no printing."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeformer.converters.conversion import ConversionReport
    from edgeformer.device_profiles.profile import DeviceProfile
    from edgeformer.doctor import Diagnosis, EngineCheck, ExtraCheck
    from edgeformer.inspection import Verification
    from edgeformer.runtime.answers import Answer, Fill, Label, Span
    from edgeformer.runtime.manifest import Manifest, Variant
    from edgeformer.stored_sizes import StoredSize


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns two spaces apart; the first to the left, the others to the right."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def parity_table(manifest: "Manifest") -> str:
    """One row for each variant: size, and how near its answers are to PyTorch's."""
    headers = ("variant", "MB", "max abs", "min cos", "mean cos", "top-1", "batch cos", "ok")
    return table(headers, [_parity_row(manifest, variant) for variant in manifest.variants])


def _parity_row(manifest: "Manifest", variant: "Variant") -> tuple[str, ...]:
    size = _megabytes(sum(manifest.files[name].size for name in variant.files) / 1e6)
    parity = variant.parity
    if parity is None:
        return (variant.id, size, *["-"] * 6)
    return (
        variant.id,
        size,
        f"{parity.max_abs:.1e}",
        f"{parity.min_cosine:.5f}",
        f"{parity.mean_cosine:.5f}",
        "-" if parity.top1 is None else f"{parity.top1:.2%}",
        "-" if parity.batch_cosine is None else f"{parity.batch_cosine:.6f}",
        "yes" if parity.passed else "NO",
    )


def conversion_text(report: "ConversionReport") -> str:
    """What ``convert`` made."""
    compared = max((v.parity.texts for v in report.manifest.variants if v.parity), default=0)
    seconds = sum(stage.seconds or 0.0 for stage in report.stages)
    stages = ", ".join(f"{stage.name} {stage.seconds or 0.0:.1f}" for stage in report.stages)
    return "\n".join(
        (
            f"{report.path}  ({report.manifest.model.name}, {report.manifest.model.task})",
            "",
            f"against PyTorch, on {compared} inputs:",
            parity_table(report.manifest),
            "",
            f"{seconds:.1f} s, peak memory {report.peak_rss_mb:.0f} MB",
            f"seconds: {stages}",
        )
    )


def vector_text(vector: Sequence[float]) -> str:
    """One embedding on one line, six digits each."""
    return " ".join(f"{value:.6g}" for value in vector)


def labels_text(labels: "Sequence[Label]") -> str:
    """Labels with their scores on one line, best first, and the layer at which a text left."""
    parts = [f"{label.name}\t{label.score:.4f}" for label in labels]
    if labels and labels[0].exit_layer is not None:
        parts.append(f"layer {labels[0].exit_layer}")
    return "\t".join(parts)


def label_data(label: "Label") -> dict[str, Any]:
    """A label for JSON, the layer at which a text left where it could leave."""
    data = asdict(label)
    return {name: value for name, value in data.items() if value is not None}


def spans_text(spans: "Sequence[Span]") -> str:
    """One line for each span: label, score, characters, text."""
    return "\n".join(f"{s.label}\t{s.score:.4f}\t{s.start}:{s.end}\t{s.text}" for s in spans)


def answers_text(answers: "Sequence[Answer]") -> str:
    """One line for each answer: text, score, characters of the context."""
    return "\n".join(
        f"{' '.join(a.text.split())}\t{a.score:.4f}\t{a.start}:{a.end}" for a in answers
    )


def fills_text(fills: "Sequence[Fill]") -> str:
    """One line for each token of a mask: token, score, the text with it."""
    return "\n".join(f"{fill.token}\t{fill.score:.4f}\t{fill.text}" for fill in fills)


def run_example(manifest: "Manifest") -> str:
    """What to type behind `edgeformer run BUNDLE`; empty for a module, which takes arrays."""
    card = manifest.model
    if card.task == "module" or (manifest.takes_images and card.image is None):
        return ""
    if manifest.takes_images:
        return "--image FILE"
    return {
        "question-answering": '"a question?" --context FILE',
        "fill-mask": f'"a {card.mask_token} with one word left out"',
    }.get(card.task, '"a sentence"')


def bundle_text(path: str, manifest: "Manifest", installed: set[str]) -> str:
    """What ``inspect`` shows; ``installed`` has the engines that are installed here."""
    card, profile = manifest.model, manifest.profile
    facts = [_count(card.parameters)] if card.parameters else []
    facts += [f"at most {card.max_length} tokens"] if card.max_length else []
    facts += [f"{card.pooling} pooling"] if card.pooling else []
    facts += ["unit length"] if card.normalized else []
    facts += [card.problem_type] if card.problem_type else []
    lines = [
        f"{path}  (schema {manifest.schema_version})",
        f"model    {card.name} ({card.family}), {', '.join((card.task, *facts))}",
    ]
    if card.labels:
        lines.append(f"labels   {', '.join(card.labels)}")
    if manifest.recipe:
        lines.append(f"recipe   {manifest.recipe}")
    if manifest.chosen:
        lines.append(f"chosen   {manifest.chosen}")
    order = ", ".join(e if e in installed else f"{e} (not installed)" for e in manifest.engines)
    lines += [
        f"profile  {profile.get('name', '?')}: {profile.get('description', '')}",
        f"engines  {order}; at most {manifest.threads} threads",
        f"made by  {', '.join(f'{name} {v}' for name, v in manifest.tools.items())}",
        "",
        parity_table(manifest),
    ]
    lines += [f"{v.id}: {v.layout}{_note(v)}" for v in manifest.variants]
    if manifest.forced:
        lines += ["", "FORCED: a tolerance was missed, and --force wrote the bundle all the same"]
    return "\n".join(lines)


def stored_text(variant_id: str, sizes: "Sequence[StoredSize]") -> str:
    """What the file of a variant holds, by kind and form."""
    rows = [
        (
            f"{row.kind} as {row.form}",
            f"{row.values:,}",
            f"{1 - row.nonzeros / max(1, row.values):.0%}" if row.nonzeros < row.values else "-",
            _megabytes(row.file_bytes / 1e6),
            _megabytes(row.decoded_bytes / 1e6) if row.decoded_bytes else "-",
        )
        for row in sizes
    ]
    headers = (f"{variant_id} holds", "values", "zeros", "MB", "MB decoded")
    return table(headers, rows)


def _count(parameters: int) -> str:
    millions = f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters:,}"
    return f"{millions} parameters"


def _megabytes(megabytes: float) -> str:
    return f"{megabytes:.1f}" if megabytes >= 1 else f"{megabytes:.3f}"


def _note(variant: "Variant") -> str:
    extra = [text for text in (variant.provider, variant.note) if text]
    return f" ({'; '.join(extra)})" if extra else ""


def verification_text(verification: "Verification") -> str:
    """What ``inspect --verify`` found."""
    lines = [f"{check.name}: {check.problem or 'ok'}" for check in verification.files]
    for check in verification.answers:
        state = check.state if check.state == "not installed" else f"self-test {check.state}"
        lines.append(f"{check.variant}: {state} ({check.reason or f'{verification.cases} inputs'})")
    return "\n".join(lines)


def profiles_table(profiles: "Sequence[DeviceProfile]") -> str:
    """One line for each profile."""
    rows = [
        (
            profile.name,
            profile.cpu.architecture,
            str(profile.runtime.threads),
            str(profile.memory.budget_mb),
            ",".join(profile.runtime.engines),
            profile.description,
        )
        for profile in profiles
    ]
    width = max(len(row[-1]) for row in rows)
    padded = [(*row[:-1], row[-1].ljust(width)) for row in rows]
    headers = ("name", "architecture", "threads", "memory MB", "engines", "device".ljust(width))
    return table(headers, padded)


def toml_text(data: dict[str, Any]) -> str:
    """A profile as the TOML that would give it: what ``profiles show`` prints can be kept."""
    plain = [f"{key} = {toml_value(v)}" for key, v in data.items() if not isinstance(v, dict)]
    for name, section in data.items():
        if isinstance(section, dict):
            plain += ["", f"[{name}]", *(f"{key} = {toml_value(v)}" for key, v in section.items())]
    return "\n".join(plain)


def toml_value(value: Any) -> str:
    """A number, text, truth value or list of them as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return repr(value)


def cpu_line(machine: Any) -> str:
    """The board, the CPU, and how much of it may be used."""
    board = f"{machine.board}, " if machine.board else ""
    quota = "" if machine.cgroup_cpus is None else f", a quota of {machine.cgroup_cpus:g}"
    emulated = f", emulated by {machine.emulator}" if machine.emulator else ""
    return (
        f"{board}{machine.cpu_model} ({machine.architecture}),"
        f" {machine.affinity_cpus} of {machine.cpus} CPUs{quota}{emulated}"
    )


def doctor_text(diagnosis: "Diagnosis") -> str:
    """What the doctor found, engine by engine, and the advice."""
    machine, state, blas = diagnosis.machine, diagnosis.state, diagnosis.blas
    threads = f" on {blas.threads} threads" if blas.threads else ""
    where = f" ({blas.path})" if blas.path else ""
    lines = [
        f"EdgeFormer {diagnosis.edgeformer}, {machine.python} ({machine.bits}-bit)",
        f"system   {machine.system}{f', {machine.libc}' if machine.libc else ''}",
        f"CPU      {cpu_line(machine)}",
        f"         features: {' '.join(machine.isa) or 'none that matter'}",
        f"memory   {machine.memory_mb} MB, {state.available_memory_mb} MB available",
        f"numpy    {diagnosis.numpy}, BLAS {blas.name}{threads}{where}",
    ]
    lines += [f"state    {text}"] if (text := _state_line(state)) else []
    lines.append("")
    for check in diagnosis.engines:
        lines += _engine_lines(check)
    lines.append("")
    for extra in diagnosis.extras:
        lines += _extra_lines(extra)
    for advice in diagnosis.advice:
        lines += ["", f"advice: {advice.message}", f"  -> {advice.hint}"]
    return "\n".join(lines)


def _state_line(state: Any) -> str:
    facts = []
    if state.governor:
        facts.append(f"governor {state.governor}")
    if state.frequency_mhz is not None:
        facts.append(f"{state.frequency_mhz} of {state.max_frequency_mhz or '?'} MHz")
    if state.temperature_c is not None:
        facts.append(f"{state.temperature_c:.0f} degrees")
    if state.throttling is not None:
        facts.append(", ".join(state.throttling) or "not throttled")
    return "; ".join(facts)


def _engine_lines(check: "EngineCheck") -> list[str]:
    packages = f" ({', '.join(check.packages)})" if check.packages else ""
    lines = [f"{check.engine:<8} {check.state}{packages}"]
    if check.hint:
        lines.append(f"  -> {check.hint}")
    for variant in check.variants:
        if variant.failure:
            lines.append(f"         {variant.precision}: {variant.failure}")
            lines += [f"  -> {variant.hint}"] if variant.hint else []
    return lines


def _extra_lines(extra: "ExtraCheck") -> list[str]:
    missing = [name for name, version in extra.installed.items() if not version]
    if missing:
        return [
            f"extra [{extra.extra}] is incomplete, missing: {', '.join(missing)}"
            " (not needed on a device)",
            f'  -> pip install "edgeformer[{extra.extra}]"',
        ]
    other = [
        f"{name} {version} (proven: {extra.proven[name]})"
        for name, version in extra.installed.items()
        if version.split("+")[0] != extra.proven[name]
    ]
    verdict = f"other versions than the proven ones: {', '.join(other)}" if other else "as proven"
    return [f"extra [{extra.extra}] is installed, {verdict}"]
