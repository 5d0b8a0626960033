"""A trained mask detector at work: flags of pictures, verification sets and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facex.data.imageio import ImageError, decode_image, resize_image
from facex.data.verification import VerificationSet
from facex.errors import ConfigError, DataError
from facex.inference.embed import embed_batch, evaluation_mode, pick_device, plain_nets
from facex.train.load_run import load_run
from facex_jhmfr.detector import JHMFRDetector


class Detector:
    """A detector's run, ready to look at pictures.

    Args:
        run: its folder.
        device: where it works.
        batch_size: pictures of one pass.
    """

    def __init__(self, run: str | Path, device: str = "auto", batch_size: int = 256) -> None:
        self.method, self.device, self.batch_size = load_run(run).method, pick_device(device), batch_size
        if not isinstance(self.method, JHMFRDetector):
            raise ConfigError(f"{run}: a run of {type(self.method).__name__}, not of JHMFRDetector")
        self.nets = {name: net.to(self.device) for name, net in plain_nets(self.method).items()}

    def images(self, images: np.ndarray) -> np.ndarray:
        """bool [n], who wears a mask, of uint8 pictures [n, H, W, 3] RGB."""
        found = []
        with evaluation_mode(self.method, self.nets):
            for start in range(0, len(images), self.batch_size):
                some = images[start : start + self.batch_size]
                found.append(embed_batch(self.method, self.nets, some, "rgb", self.device).vector[:, 0].numpy() > 0)
        return np.concatenate(found)

    def set(self, one: VerificationSet) -> np.ndarray:
        """bool [2n] of a verification set."""
        starts = range(0, len(one.entries), self.batch_size)
        return np.concatenate(
            [self.images(one.decode("rgb", start=start, stop=start + self.batch_size)) for start in starts]
        )

    def files(self, root: str | Path, names: Sequence[str]) -> np.ndarray:
        """bool [n] of picture files below `root`, whose sizes may differ. DataError names one that cannot be read."""
        size = self.method.input.height, self.method.input.width
        found = []
        for start in range(0, len(names), self.batch_size):
            images = []
            for name in names[start : start + self.batch_size]:
                path = Path(root) / name
                try:
                    images.append(resize_image(decode_image(path.read_bytes()), size))
                except (OSError, ImageError) as error:
                    raise DataError(f"{path}: cannot be read as a picture: {error}") from error
            found.append(self.images(np.stack(images)))
        return np.concatenate(found)
