"""What a bundle costs on this machine; runs on devices too."""
