"""ONE configurable PyTorch encoder, and the name tables that load checkpoints into it."""
