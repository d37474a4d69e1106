"""A bidirectional LSTM over padded texts, and the operation by which converters know it.

Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, with the forget
gate of Gers et al. 2000, as torch.nn.LSTM computes it; Graves and Schmidhuber 2005 for both
directions.

How many steps a text has is known only when the model runs, which torch.export cannot trace. So
an exported graph holds one operation for each direction, ``edgeformer::lstm``, and each converter
says it in its own words. Everywhere else torch.nn.LSTM runs, on packed texts.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from edgeformer.errors import InputError


@torch.library.custom_op("edgeformer::lstm", mutates_args=())
def lstm(
    x: torch.Tensor,
    attention_mask: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor,
    bias_hh: torch.Tensor,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One direction of an LSTM, step by step. Padding leaves the state as it is and answers 0.

    Args:
        x: float (batch, sequence, input).
        attention_mask: integers (batch, sequence), 1 for tokens, then 0 for padding.
        weight_ih: float (4 * hidden, input): input gate, forget gate, candidate, output gate.
        weight_hh: float (4 * hidden, hidden), in the same order.
        bias_ih: float (4 * hidden,).
        bias_hh: float (4 * hidden,).
        reverse: from the last token to the first.

    Returns:
        the hidden state after each step, float (batch, sequence, hidden), each at its token's
        place, and that after the last step, float (batch, hidden).
    """
    gates = torch.nn.functional.linear(x, weight_ih, bias_ih + bias_hh)
    hidden = cell = x.new_zeros(x.shape[0], weight_hh.shape[1])
    outputs = x.new_zeros(*x.shape[:2], weight_hh.shape[1])
    steps = range(x.shape[1])
    for t in reversed(steps) if reverse else steps:
        i, f, g, o = (gates[:, t] + hidden @ weight_hh.t()).chunk(4, dim=1)
        is_token = attention_mask[:, t, None] != 0
        cell = torch.where(is_token, f.sigmoid() * cell + i.sigmoid() * g.tanh(), cell)
        hidden = torch.where(is_token, o.sigmoid() * cell.tanh(), hidden)
        outputs[:, t] = hidden * is_token
    return outputs, hidden


@lstm.register_fake
def _(
    x: torch.Tensor,
    attention_mask: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor,
    bias_hh: torch.Tensor,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = weight_hh.shape[1]
    return x.new_empty(*x.shape[:2], hidden), x.new_empty(x.shape[0], hidden)


class BidirectionalLstm(nn.Module):
    """One layer: an LSTM from the first token to the last, and one back.

    Args:
        input_size: width of what it reads.
        hidden_size: width of the state of one direction.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True, bidirectional=True)

    def forward(
        self, x: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states of both directions side by side; what padding holds makes no difference.

        Args:
            x: float (batch, sequence, input_size).
            attention_mask: integers (batch, sequence), 1 for tokens, then 0 for padding.

        Returns:
            float (batch, sequence, 2 * hidden_size), zeros at padding, and each direction's
            last, float (batch, 2 * hidden_size).

        Raises:
            InputError: a text without tokens, or padding before a token.
        """
        if torch.compiler.is_exporting():
            return self._by_direction(x, attention_mask)
        _check_padding(attention_mask)
        lengths = attention_mask.sum(1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, (last, _) = self.lstm(packed)
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
        return padded, torch.cat([last[0], last[1]], dim=1)

    def _by_direction(
        self, x: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        there, back = (
            lstm(
                x,
                attention_mask,
                self.lstm.get_parameter(f"weight_ih_l0{suffix}"),
                self.lstm.get_parameter(f"weight_hh_l0{suffix}"),
                self.lstm.get_parameter(f"bias_ih_l0{suffix}"),
                self.lstm.get_parameter(f"bias_hh_l0{suffix}"),
                bool(suffix),
            )
            for suffix in ("", "_reverse")
        )
        return torch.cat([there[0], back[0]], dim=2), torch.cat([there[1], back[1]], dim=1)


def _check_padding(attention_mask: torch.Tensor) -> None:
    if bool((attention_mask[:, 0] == 0).any()):
        raise InputError("an LSTM needs texts of at least one token, padded on the right")
    if bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
        raise InputError("an LSTM needs texts padded on the right: attention_mask 1, 1, ..., 0, 0")
