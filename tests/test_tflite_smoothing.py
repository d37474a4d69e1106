"""What a user would lose: int8 accuracy on short texts, or their module as it was."""

import pytest
import torch
from torch import nn

from edgeformer.converters.tflite_smoothing import smoothed


class Block(nn.Module):
    """A norm read by two layers, one layer that reads no norm, and a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 5)
        self.after = nn.Linear(6, 8)
        self.tied = nn.Linear(8, 8)
        self.tied_again = nn.Linear(8, 8)
        self.tied_again.weight = self.tied.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        normed = self.norm(x)
        hidden = self.after(torch.relu(self.left(normed)))
        tied = self.tied(self.other_norm(hidden)) + self.tied_again(hidden)
        return {"y": tied, "z": self.right(normed)}


def block() -> tuple[Block, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    module = Block().eval()
    with torch.no_grad():
        module.norm.weight.copy_(torch.tensor([40.0, 1, 1, 1, 1, 1, 1, 0]))
        module.norm.bias.zero_()
    return module, {"x": torch.randn(3, 4, 8)}


def test_the_answers_stay_the_same_and_the_module_is_put_back() -> None:
    module, example = block()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    addresses = [p.data_ptr() for p in module.parameters()]
    with torch.no_grad():
        expected = module(**example)
        with smoothed(module, (example,)):
            inside = module(**example)
            changed = {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}
        after = module(**example)
    assert changed == {"left.weight", "right.weight"}
    for name, value in expected.items():
        torch.testing.assert_close(inside[name], value, atol=1e-5, rtol=1e-5)
        assert torch.equal(after[name], value)
    assert addresses == [p.data_ptr() for p in module.parameters()]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


def test_large_channels_move_into_the_weights() -> None:
    module, example = block()
    seen: list[torch.Tensor] = []
    with torch.no_grad(), smoothed(module, (example,)):
        module.left.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        module(**example)
        normed = module.norm(example["x"])
    peaks = [t.abs().flatten(0, 1).amax(0)[:7] for t in (normed, seen[0])]
    spread = [float(p.max() / p.median()) for p in peaks]
    assert spread[0] > 20
    assert spread[1] < spread[0] / 4
    assert all(torch.isfinite(t).all() for t in seen)  # a channel that is always 0 divides by 1


def test_scales_are_those_of_the_paper() -> None:
    module, example = block()
    original = module.left.weight.detach().clone()
    with torch.no_grad():
        peak = module.norm(example["x"]).abs().flatten(0, 1).amax(0)
        columns = torch.maximum(original.abs().amax(0), module.right.weight.abs().amax(0))
        with smoothed(module, (example,)):
            scale = (module.left.weight / original)[0]
    peak = torch.maximum(peak, peak.median())  # a channel that the examples hardly move
    torch.testing.assert_close(scale[:7], (peak**0.5 / columns**0.5)[:7])
    assert float(scale[7]) == 1.0


def test_every_example_counts() -> None:
    module, example = block()
    ten_times = {"x": example["x"].clone()}
    ten_times["x"][..., 0] += 30  # one channel far out: the norm sends it near its maximum
    with torch.no_grad():
        with smoothed(module, (example,)):
            few = module.left.weight.clone()
        with smoothed(module, (example, ten_times)):
            more = module.left.weight.clone()
    assert not torch.equal(few, more)
    assert bool((more[:, 0].abs() > few[:, 0].abs()).all())


def test_a_layer_shared_by_several_places_is_smoothed_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            for _ in range(3):
                x = self.linear(self.norm(x))
            return {"y": x}

    module = Shared().eval()
    example = {"x": torch.randn(2, 8)}
    with torch.no_grad():
        expected = module(**example)["y"]
        with smoothed(module, (example,)):
            torch.testing.assert_close(module(**example)["y"], expected)
            assert len(module.linear._forward_pre_hooks) == 1


def test_a_failure_inside_puts_the_module_back() -> None:
    module, example = block()
    before = module.left.weight.detach().clone()
    with pytest.raises(RuntimeError, match="conversion"), smoothed(module, (example,)):
        raise RuntimeError("conversion")
    assert torch.equal(module.left.weight, before)
    assert not module.left._forward_pre_hooks
