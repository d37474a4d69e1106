"""Who takes part in the race (docs/race.md), each as its own users would run it.

One script per contender, with two functions that a worker process calls by name:

    prepare(folder)         make the contender's files in ``folder``, once: they are kept
    open(folder, threads)   -> encode(list[str]) -> float32 (texts, hidden), pooled and normalised

``folder.parent / CHECKPOINT`` is the Hugging Face folder of the model, ``folder.parent / NAME`` the
folder of another contender that this one's ``needs`` names. A third function may say what the
contender picked by itself: ``chosen(encode) -> str``. A script imports its library inside these
functions, so that reading this table costs nothing.

Environments: ``NAME.lock`` beside this file pins a virtual environment of that name; an empty
name is the one that runs the race (requirements.lock). The files may be made in another
environment than the one they run in: exporting needs PyTorch, running must not.
"""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINT = "checkpoint"
PROJECT = ""  # the environment that runs the race


@dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
        name: of its script beside this file, its folder, and its row in the JSON.
        title: what the report calls it.
        environment: lock file, without suffix, of the environment that it runs in.
        made_in: the same, for ``prepare``.
        needs: contenders whose files ``prepare`` reads.
        files_of: contender whose files it runs, if it has none of its own.
        ours: True for EdgeFormer's.
        fresh: make the files anew for every race, because they hold measurements.
        engine: library that does the arithmetic; rows with the same one differ by the files.
    """

    name: str
    title: str
    environment: str
    made_in: str = PROJECT
    needs: tuple[str, ...] = ()
    files_of: str = ""
    ours: bool = False
    fresh: bool = False
    engine: str = ""


BASELINE = "ort_fp32"  # ratios are against it
REFERENCE = "pytorch_eager"  # right answers are its
STOCK_LITERT = "litert_int8"
AUTO = "edgeformer_auto"

CONTENDERS = (
    Contender("pytorch_eager", "PyTorch eager fp32", PROJECT, engine="PyTorch"),
    Contender("ort_fp32", "ONNX Runtime fp32, stock", "onnxruntime", engine="ONNX Runtime"),
    Contender(
        "optimum_int8",
        "ONNX Runtime int8, optimum's avx512_vnni",
        "onnxruntime",
        made_in="optimum",
        engine="ONNX Runtime",
    ),
    Contender(
        "openvino_default",
        "OpenVINO, default precision",
        "openvino",
        made_in="openvino",
        needs=("ort_fp32",),
        engine="OpenVINO",
    ),
    Contender(
        "openvino_int8",
        "OpenVINO, int8 weights (asymmetric)",
        "openvino",
        made_in="openvino",
        needs=("ort_fp32",),
        engine="OpenVINO",
    ),
    Contender(
        "ctranslate2_int8",
        "CTranslate2 int8",
        "ctranslate2",
        made_in="optimum",
        engine="CTranslate2",
    ),
    Contender("litert_int8", "LiteRT dynamic int8, stock", "litert", engine="LiteRT"),
    Contender(
        "edgeformer_onnx", "EdgeFormer onnx int8", "edgeformer", ours=True, engine="ONNX Runtime"
    ),
    Contender(
        "edgeformer_tflite",
        "EdgeFormer tflite int8",
        "edgeformer",
        files_of="edgeformer_onnx",
        ours=True,
        engine="LiteRT",
    ),
    Contender(
        "edgeformer_numpy",
        "EdgeFormer numpy int8",
        "edgeformer",
        files_of="edgeformer_onnx",
        ours=True,
        engine="NumPy",
    ),
    Contender(
        "edgeformer_auto",
        "EdgeFormer auto",
        "edgeformer",
        made_in="edgeformer",
        needs=("edgeformer_onnx",),
        ours=True,
        fresh=True,
        engine="chosen by EdgeFormer",
    ),
)


def contender(name: str) -> Contender:
    """The contender of that name; KeyError if there is none."""
    return {c.name: c for c in CONTENDERS}[name]


def lock_file(environment: str) -> Path:
    """What pins an environment."""
    folder = Path(__file__).parent
    if environment == PROJECT:
        return folder.parents[1] / "requirements.lock"
    return folder / f"{environment}.lock"
