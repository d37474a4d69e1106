"""One module per engine. Each has open_engine(bundle, variant, threads) -> Engine."""
