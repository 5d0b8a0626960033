"""MSML for facex: recognition of occluded faces by segmentation-based masking (networks, losses, margins, checkpoints)."""
