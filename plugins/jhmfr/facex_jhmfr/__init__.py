"""JHMFR for facex: FaceT, its masked autoencoder, fine-tuning on holistic and masked faces, official checkpoints."""

from facex_jhmfr.detector import JHMFRDetector
from facex_jhmfr.facet import FaceT
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.mae import MaskedAutoencoder
from facex_jhmfr.pretrain import JHMFRPretrain

__all__ = ["JHMFR", "FaceT", "JHMFRDetector", "JHMFRPretrain", "MaskedAutoencoder"]
