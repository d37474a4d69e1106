"""Rewrites of an ONNX graph, one per file: functions that change an ``onnx_ir.Model`` in place.

    smooth_inputs(model, ranges)        # the same answers, easier to quantize
    quantize_linears(model, reduce_range=False)

Each file's docstring lists the rules its pass follows. The passes know ONNX and numpy, not torch.
"""
