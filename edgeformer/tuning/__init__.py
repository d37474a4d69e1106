"""Which variant answers which length fastest on this machine; runs on devices too."""
