"""SARFace's second stage: a policy learns which regions of a face to black out, from what that does to its recognition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads.margins import Margin
from facex.methods import (
    Batch,
    Context,
    Embedding,
    Group,
    InputSpec,
    LoadReport,
    Method,
    Schedule,
    Source,
    Update,
    Visuals,
)
from facex.methods.method import Nets
from facex_sarface.actions import bernoulli_entropy, deterministic, pseudo_entropy
from facex_sarface.baselines import Baseline, surrogate
from facex_sarface.exploration import Explorer
from facex_sarface.groups import policy_groups
from facex_sarface.imagenet import imagenet_start
from facex_sarface.inference import EvalView, Inference
from facex_sarface.masking import FIELD, POLICY, RECOGNISER, Parsing, RegionRecogniser, pixels_of, rows
from facex_sarface.options import BaselineConfig, EntropyConfig, ExplorationConfig, ParserConfig, RewardConfig
from facex_sarface.pictures import overlays
from facex_sarface.policy_network import PolicyNetwork
from facex_sarface.regions import CenterPixel, SchemeName
from facex_sarface.rewards import Scores, recognition_reward, sparsity, too_small
from facex_sarface.rollout import Judgement, Rollout, rollout_logs

SHOWN = 8
EvalInput = Literal["full", "masked", "both"]


@dataclass(frozen=True)
class Seen:
    """Of the last micro-batch, for pictures and histograms."""

    images: Tensor
    regions: Tensor
    rollout: Rollout


class SARFace(RegionRecogniser):
    """Policy gradient over the regions of a face, and a recogniser that learns from the masked faces.

    A step: the recogniser in evaluation mode sees the whole and the masked pictures, without gradient; the change of the
    identification is the reward; the policy is stepped; the stepped policy masks the pictures anew, and the recogniser
    learns from those. Networks `policy` and `recogniser` (which the head follows) and a frozen `parser`. The defaults are
    the published method's; how often the recogniser is stepped is `networks.recogniser.every` and `accumulate`.

    Args:
        margin: the head's margin; published: CosFace with m 0.4 and clamp_eps 1e-4. A margin's running values move in the
            recogniser's own pass alone.
        backbone: an AdaFace network, ir_18 ... ir_101, ir_se_50.
        embedding_size: length of the embedding.
        backbone_options: further arguments of the backbone.
        input: what the networks read; published: BGR, +-1, 112 x 112.
        scheme: how the parser's labels become regions: sar24, legacy23, raw19.
        removable: ids of the regions that the policy decides about, in the order of its actions; unset: the scheme's, which
            keep hat, glasses and jewellery always (published).
        center_pixel: official: the pixel that the four-way cuts leave over keeps its raw label's number as region; fixed:
            it belongs to the bottom right.
        parsing: parser: label maps come from the frozen parser. data: from the set's field `parsing`.
        parser: the parser; unset: SwiftFormer-L1, or none with parsing data (then full pictures alone can be embedded).
        exploration: noise or mixture, its share and schedule.
        reward: flip or margin, sparsity, least area.
        baseline: none, loo, greedy, ema; normalisation of advantages.
        entropy: pseudo or true, its weight.
        samples: masks that are tried for each picture.
        rec_bn: frozen: the recogniser learns in evaluation mode, without dropout, its BatchNorm statistics unchanged
            (published). train: they are the micro-batch's and move.
        clean_probability: share of the pictures that the recogniser learns from unmasked.
        eval_input: what is embedded. full: whole pictures (published: the policy is not used). masked: what the
            deterministic mask (p >= 0.5) leaves; mirrored views under the mirrored mask. both: whole pictures, and beside
            them the masked ones as results of their own.
        init: class centres at the start: unit (published), normal, xavier.
        sample_rate: share of the classes that take part at the recogniser's step (Partial FC); rewards see all classes.
        head_options: further options of MarginHead by name.
    """

    stage = 2

    def __init__(
        self,
        margin: Margin,
        backbone: str = "ir_50",
        embedding_size: int = 512,
        backbone_options: dict[str, Any] | None = None,
        input: InputSpec | None = None,
        scheme: SchemeName = "sar24",
        removable: Sequence[int] | None = None,
        center_pixel: CenterPixel = "official",
        parsing: Parsing = "parser",
        parser: ParserConfig | None = None,
        exploration: ExplorationConfig | None = None,
        reward: RewardConfig | None = None,
        baseline: BaselineConfig | None = None,
        entropy: EntropyConfig | None = None,
        samples: int = 1,
        rec_bn: Literal["frozen", "train"] = "frozen",
        clean_probability: float = 0.0,
        eval_input: EvalInput = "full",
        init: Literal["normal", "unit", "xavier"] = "unit",
        sample_rate: float = 1.0,
        head_options: dict[str, Any] | None = None,
    ) -> None:
        network = (margin, backbone, embedding_size, backbone_options, input)
        regions = (scheme, removable, center_pixel, parsing, parser)
        super().__init__(*network, *regions, init, sample_rate, head_options)
        if rec_bn not in ("frozen", "train") or eval_input not in ("full", "masked", "both"):
            raise ConfigError("rec_bn is frozen or train, eval_input full, masked or both")
        if samples < 1 or not 0 <= clean_probability <= 1 or not self.scheme.removable:
            raise ConfigError("samples: at least 1; clean_probability: between 0 and 1; removable: at least one region")
        self.policy = self.make_policy()
        self.explorer = Explorer(exploration or ExplorationConfig())
        self.reward, self.baseline = reward or RewardConfig(), Baseline(baseline or BaselineConfig())
        self.entropy, self.samples = entropy or EntropyConfig(), samples
        self.rec_bn, self.clean_probability, self.eval_input = rec_bn, clean_probability, eval_input
        self.seen: Seen | None = None

    def make_policy(self) -> nn.Module:
        """The policy: (pictures, region ids) -> logits [B, actions]."""
        return PolicyNetwork(len(self.scheme.removable), self.scheme.count)

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """As every method; and with `network: policy` a torchvision ResNet-18 file, for all of the policy but its first
        convolution and its last layer (published: IMAGENET1K_V1)."""
        reports: list[LoadReport] = []
        for source in sources:
            reports += imagenet_start(self.policy, source) or super().init_from([source])
        return reports

    def networks(self) -> dict[str, nn.Module]:
        """`policy` and `recogniser`."""
        return {POLICY: self.policy, **super().networks()}

    def param_groups(self, network: str) -> list[Group]:
        """The policy's without decay; the recogniser's norms without decay."""
        return policy_groups(self.policy) if network == POLICY else super().param_groups(network)

    def schedules(self) -> dict[str, Schedule]:
        """`exploration`: the share of exploration by applied step of the policy."""
        return {"exploration": self.explorer.schedule()}

    def train(self, mode: bool = True) -> SARFace:
        """The recogniser stays in evaluation mode where its statistics are frozen."""
        super().train(mode)
        if mode and self.rec_bn == "frozen":
            self.backbone.eval()
        return self

    # -- training -----------------------------------------------------------------------------------------------------
    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """The policy's loss; then, under the stepped policy, the recogniser's."""
        yield self._policy_update(self.roll_out(batch, ctx), batch, ctx)
        images = self._training_images(batch, ctx)
        if ctx.due(RECOGNISER):
            self.backbone.train(self.rec_bn == "train")
            self.check_batch(batch)
            yield Update(RECOGNISER, embeddings=ctx.nets[RECOGNISER](images), labels=batch["label"])

    def roll_out(self, batch: Batch, ctx: Context) -> Rollout:
        """The recogniser on whole pictures, the policy's samples, and what they earn."""
        assert ctx.head is not None
        images, regions, labels = batch["image"], batch["regions"], batch["label"]
        self.backbone.eval()
        with torch.no_grad():
            full = Scores.of(ctx.head, ctx.nets[RECOGNISER](images), labels)
        logits = ctx.nets[POLICY](images, regions).float()
        policy = self.explorer.distribution(logits, ctx.value("exploration"), "explore", batch, ctx)
        actions = self.explorer.draw(policy, "explore", ctx, self.samples)
        judged = [self.judge(batch, ctx, full, sample) for sample in actions]
        greedy = None
        if self.baseline.config.kind == "greedy":
            greedy = self.judge(batch, ctx, full, deterministic(logits.detach())).reward
        log_prob, probs = policy.log_prob(actions), policy.probs.detach()
        return Rollout(logits, probs, actions, log_prob, full, judged, labels >= 0, greedy)

    @torch.no_grad()
    def judge(self, batch: Batch, ctx: Context, full: Scores, actions: Tensor) -> Judgement:
        """What `actions` [b, A] earn, with the recogniser in evaluation mode."""
        assert ctx.head is not None
        labels, pixels = batch["label"], pixels_of(batch["image"])
        masked, area = self.mask(batch["image"], batch["regions"], self.scheme.keep(actions))
        scores = Scores.of(ctx.head, ctx.nets[RECOGNISER](masked), labels)
        r = recognition_reward(full, scores, labels, area, pixels, self.reward)
        return Judgement(scores, r, r + sparsity(area, pixels, self.reward), area)

    def _policy_update(self, rollout: Rollout, batch: Batch, ctx: Context) -> Update:
        advantages = self.baseline(rollout, ctx.all_reduce)
        if self.entropy.kind == "pseudo":
            entropy = pseudo_entropy(rollout.log_prob).mean(0)
        else:
            entropy = bernoulli_entropy(rollout.logits)
        losses = {
            "reinforce": ctx.mean(surrogate(rollout.log_prob, advantages), rollout.valid),
            "entropy": -self.entropy.weight * ctx.mean(entropy, rollout.valid),
        }
        names = tuple(self.scheme.names[k] for k in self.scheme.removable)
        logs = rollout_logs(rollout, advantages, entropy.detach(), names, len(self.scheme.kept))
        self.seen = Seen(batch["image"][:SHOWN], batch["regions"][:SHOWN], rollout.detached())
        return Update(POLICY, losses, logs=logs)

    def after_update(self, network: str, ctx: Context) -> None:
        """The running baseline takes in the rewards of the step."""
        if network == POLICY:
            self.baseline.after_step(ctx.all_reduce)

    @torch.no_grad()
    def _training_images(self, batch: Batch, ctx: Context) -> Tensor:
        """What the recogniser learns from: masks drawn anew from the policy as it is now."""
        images, regions = batch["image"], batch["regions"]
        logits = ctx.nets[POLICY](images, regions).float()
        policy = self.explorer.distribution(logits, self.explorer.config.eps_train, "train", batch, ctx)
        (actions,) = self.explorer.draw(policy, "train", ctx)
        masked, area = self.mask(images, regions, self.scheme.keep(actions))
        whole = too_small(area, pixels_of(images), self.reward)
        if self.clean_probability:
            whole = whole | (ctx.uniform("train/clean") < self.clean_probability)
        return torch.where(rows(whole), images, masked)

    # -- use ----------------------------------------------------------------------------------------------------------
    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Raw embedding of what `eval_input` says ("both": the whole picture); with `flip` the sum of both views'.

        `side`: `parsing` [B, h, w] instead of the parser's label maps; `keep` [B, regions] (0 or 1) instead of the policy's
        mask. Quality: the length. maps, where a mask is used: `keep` float32 [B, regions], `kept` uint8 [B, H, W] (255).
        """
        if self.eval_input == "masked" or (side and "keep" in side):
            return self.embed_masked(images, nets, side, flip)
        return super().embed(images, nets, side, flip)

    def embed_masked(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """As `embed`, of the masked picture whatever `eval_input` says."""
        side = side or {}
        regions = self.regions(images, nets, side.get(FIELD))
        keep = side["keep"] if "keep" in side else self.decide(images, regions, nets)
        return self.embed_kept(images, regions, keep, nets, flip)

    def embed_kept(self, images: Tensor, regions: Tensor, keep: Tensor, nets: Nets, flip: bool = False) -> Embedding:
        """As `embed_masked`, under a mask `keep` [B, regions] over known `regions` [B, H, W]; a mask that leaves less than
        the least area is not applied. ValueError for a mask of another shape."""
        if keep.shape != (len(images), self.scheme.count):
            raise ValueError(f"keep is {tuple(keep.shape)}; it must be {(len(images), self.scheme.count)}: all regions")
        masked, area = self.mask(images, regions, keep.float())
        masked = torch.where(rows(too_small(area, pixels_of(images), self.reward)), images, masked)
        found = super().embed(masked, nets, None, flip)
        kept = keep.gather(1, regions.long().flatten(1)).view(regions.shape).to(torch.uint8) * 255
        return Embedding(found.vector, found.quality, {"keep": keep.float(), "kept": kept})

    def decide(self, images: Tensor, regions: Tensor, nets: Nets) -> Tensor:
        """The deterministic mask: what is kept, 0 or 1, float32 [B, regions]."""
        return self.scheme.keep(deterministic(nets[POLICY](images, regions).float()))

    def views(self) -> dict[str, Method]:
        """With eval_input both: `masked`."""
        return {"masked": EvalView(self)} if self.eval_input == "both" else {}

    def inference_module(self, **mode: Any) -> nn.Module:
        """Normalised pictures [B, 3, H, W] -> raw embeddings [B, D]; with `masks=True` of the masked pictures, and the keep
        mask [B, regions] beside them."""
        masks = bool(mode.pop("masks", False))
        if mode:
            raise ConfigError(f"SARFace has the inference option masks, not {sorted(mode)}")
        return Inference(self) if masks else self.backbone

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Faces, what the first samples of the last micro-batch removed, and what was left; rewards, areas, probabilities."""
        if self.seen is None:
            return Visuals()
        rollout = self.seen.rollout
        keep = self.scheme.keep(rollout.actions[0, :SHOWN].float())
        pictures = overlays(self.seen.images, self.seen.regions, keep, self.input)
        rewards = rollout.rewards
        return Visuals(
            {"regions": pictures},
            {
                "reward": rewards.flatten(),
                "area": rollout.area.flatten(),
                "probability": rollout.logits.sigmoid().flatten(),
            },
        )
