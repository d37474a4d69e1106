"""How right a bundle answers; runs on devices too."""
