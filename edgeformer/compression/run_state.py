"""Where a training is: what its state file holds, and how a model comes out of it again."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from edgeformer.compression.model_config import config_of
from edgeformer.compression.recipe import Stage
from edgeformer.compression.soft_spans import put_spans
from edgeformer.compression.sparsifying import put_masks
from edgeformer.models.bilstm import BiLstmConfig
from edgeformer.models.build import HeadConfig, ModelConfig, make_model
from edgeformer.models.config import EncoderConfig


@dataclass(frozen=True)
class StageResult:
    """What one stage was.

    Attributes:
        name: of the stage.
        steps: of the optimizer.
        loss: of its last step; None where nothing was trained.
        seconds: it took, interruptions not counted.
    """

    name: str
    steps: int
    loss: float | None
    seconds: float


@dataclass
class RunState:
    """A training at some moment; changed as it goes on.

    Attributes:
        student: as it is.
        head: settings of its head.
        projections: trained beside it.
        stage: number of the stage that is being carried out, from 0.
        step: steps of it that are done.
        optimizer: its state after them; None before the first.
        loss: of the last step.
        seconds: spent on the stage.
        done: results of the stages before.
    """

    student: nn.Module
    head: HeadConfig
    projections: nn.ModuleDict
    stage: int = 0
    step: int = 0
    optimizer: dict[str, Any] | None = None
    loss: float | None = None
    seconds: float = 0.0
    done: tuple[StageResult, ...] = ()

    def next_stage(self, result: StageResult) -> None:
        """The stage is done."""
        self.done = (*self.done, result)
        self.stage, self.step = self.stage + 1, 0
        self.optimizer, self.loss, self.seconds = None, None, 0.0


def packed(state: RunState) -> dict[str, Any]:
    """The state as tensors, numbers and texts."""
    config = config_of(state.student)
    return {
        "architecture": type(config).__name__,
        "config": asdict(config),
        "head": asdict(state.head),
        "weights": state.student.state_dict(),
        "projections": state.projections.state_dict(),
        "optimizer": state.optimizer,
        "stage": state.stage,
        "step": state.step,
        "loss": state.loss,
        "seconds": state.seconds,
        "done": [asdict(result) for result in state.done],
    }


def unpacked(data: dict[str, Any], start: RunState, stages: tuple[Stage, ...]) -> RunState:
    """The state that ``packed`` gave.

    Args:
        data: of ``packed``.
        start: the state before the first step, for projections and device.
        stages: of the training, for the masks that the student has.
    """
    kind: type[ModelConfig] = BiLstmConfig
    if data["architecture"] == EncoderConfig.__name__:
        kind = EncoderConfig
    student = make_model(kind(**data["config"]), HeadConfig(**data["head"])).eval()
    if data["step"]:
        put_masks(student, stages, data["stage"])
        put_spans(student, stages[data["stage"]], start.projections)
    student.load_state_dict(data["weights"])
    start.projections.load_state_dict(data["projections"])
    return RunState(
        student=student.to(next(start.student.parameters()).device),
        head=HeadConfig(**data["head"]),
        projections=start.projections,
        stage=data["stage"],
        step=data["step"],
        optimizer=data["optimizer"],
        loss=data["loss"],
        seconds=data["seconds"],
        done=tuple(StageResult(**result) for result in data["done"]),
    )
