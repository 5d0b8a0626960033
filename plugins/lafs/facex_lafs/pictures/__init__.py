"""Augmentations in the arithmetic of PIL and of torchvision, batched on the device: uint8 [B, H, W, 3] RGB throughout.

The methods' own pipelines run on PIL pictures; these give the same bytes for the same draws, for a whole batch at once.
"""
