"""What a loaded checkpoint takes and gives, as ports for the converters, and examples of it.

Imports torch and the encoder; opens no file.
"""

import torch

from edgeformer.models.checkpoint import LoadedModel
from edgeformer.models.encoder import Encoder
from edgeformer.runtime.manifest import Port

NUM_EXAMPLE_IMAGES = 8


def input_ports(loaded: LoadedModel) -> tuple[Port, ...]:
    """The ports of the model's inputs: of texts by their names, or of an image."""
    if "pixel_values" not in loaded.input_names:
        return tuple(_token_port(name, loaded.position_start) for name in loaded.input_names)
    encoder = loaded.module.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    channels, size = encoder.config.num_channels, encoder.config.image_size
    return (Port("pixel_values", "float32", ("batch", channels, size, size)),)


def _token_port(name: str, position_start: int) -> Port:
    defaults = {
        "attention_mask": "ones",
        "token_type_ids": "zeros",
        "position_ids": f"positions+{position_start}",
    }
    return Port(name, "int64", ("batch", "sequence"), defaults.get(name))


def output_port(name: str, value: torch.Tensor) -> Port:
    """The port of an output, from an answer to the examples."""
    middle: tuple[int | str, ...] = ("sequence",) if value.ndim == 3 else ()
    return Port(name, "float32", ("batch", *middle, int(value.shape[-1])))


def example_texts(loaded: LoadedModel, length: int) -> tuple[dict[str, torch.Tensor], ...]:
    """A batch of two texts of ``length`` tokens, one of them padded."""
    example = {
        "input_ids": torch.arange(3, 3 + 2 * length).reshape(2, length) % 7 + 1,
        "attention_mask": torch.ones(2, length, dtype=torch.int64),
        "token_type_ids": torch.zeros(2, length, dtype=torch.int64),
        "position_ids": torch.arange(length).repeat(2, 1) + loaded.position_start,
    }
    example["attention_mask"][1, length // 2 :] = 0
    return ({name: example[name] for name in loaded.input_names},)


def example_images(port: Port) -> tuple[dict[str, torch.Tensor], ...]:
    """Single images of seeded noise on the scale of normalised pixels: there are no built-in
    images, so this is also what a conversion is verified on. In steps of a quarter, so that one
    of them, as JSON, stays small."""
    generator = torch.Generator().manual_seed(0)
    _, *size = port.shape
    shape = (1, *(int(n) for n in size))
    return tuple(
        {port.name: torch.randint(-8, 9, shape, generator=generator) / 4}
        for _ in range(NUM_EXAMPLE_IMAGES)
    )
