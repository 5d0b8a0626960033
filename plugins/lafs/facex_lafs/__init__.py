"""LAFS for facex: Part fViT and fViT, self-supervised pre-training on landmark views, fine-tuning with CosFace and
mixup."""

from facex_lafs.augment import CropJitterErase, RandAugment
from facex_lafs.finetune import LAFS
from facex_lafs.pretrain import LAFSPretrain
from facex_lafs.recipe import BestRule

__all__ = ["LAFS", "BestRule", "CropJitterErase", "LAFSPretrain", "RandAugment"]
