"""Training data: phantoms, augmentation, CT-film pairs."""
