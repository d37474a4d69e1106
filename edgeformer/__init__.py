"""EdgeFormer: transformer encoders on small machines."""
