"""LAFS for facex: Part fViT and fViT, self-supervised pre-training on landmark views, fine-tuning with CosFace and
mixup."""

from facex_lafs.augment import CropJitterErase, RandAugment
from facex_lafs.finetune import LAFS
from facex_lafs.pretrain import LAFSPretrain

__all__ = ["LAFS", "CropJitterErase", "LAFSPretrain", "RandAugment"]
