"""What a training run is told: plain dataclasses, read from YAML and the command line by jsonargparse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from facex.data.transforms import Transform
from facex.methods import Method
from facex.methods.spec import Source
from facex.train.samplers import OrderName
from facex.train.selection import Selection

Precision = Literal["fp32", "bf16", "fp16"]
ClipScope = Literal["network", "joint", "per_tensor"]


@dataclass
class DataConfig:
    """Where the training faces come from, and what happens to them on the device."""

    path: str
    """RecordIO folder or .rec file, image folder, or list file. Environment variables are filled in: ${FACEX_DATA}/faces."""
    color: Literal["rgb", "bgr"] | None = None
    """Channel order that the reader delivers; unset: what the method's network reads."""
    size: int | None = None
    """Side in pixels to which images of other sizes are resized; unset: an image of another size than the set's is an
    error."""
    root: str | None = None
    """Folder of a list file's relative paths."""
    allow_ignored: bool = False
    """Accept the label -1: rows that neither cost nor count."""
    num_classes: int | None = None
    """Expected number of classes; training is refused when the data say otherwise."""
    transforms: list[Transform] | None = None
    """Augmentations on the device, in order; unset: a horizontal flip of half the samples. `[]`: none."""
    on_error: Literal["raise", "skip", "grey"] = "raise"
    """What to do with a record that does not decode."""
    threads: int | None = None
    """Decoding threads of this process; unset: the CPU cores of the machine shared among its ranks."""
    prefetch: int = 4
    """Global batches decoded ahead."""
    order: OrderName = "facex"
    """facex: a new permutation in each epoch, the same micro-batches on any number of ranks; distributed_sampler: torch's, as
    arcface_torch uses it; magface_list: MagFace's slices of the list, in one order for all epochs."""
    dataset: str | None = None
    """Data set class of a plugin (short name or class path) instead of the built-in readers; it is called with data.path, and
    color, fields and dataset_options by name."""
    dataset_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `dataset`."""


@dataclass
class ClipConfig:
    """Gradient clipping by norm; 0 turns it off."""

    norm: float = 0.0
    """Largest L2 norm of the true (unscaled, averaged) gradient."""
    scope: ClipScope = "network"
    """network: over one network's parameters; joint: over the network and the head that follows it (ZeRO-0);
    per_tensor: each parameter alone (ZeRO-0)."""


@dataclass
class OptimizerConfig:
    """How parameters move."""

    name: Literal["sgd", "adamw", "adam"] = "sgd"
    """Optimizer."""
    lr: float = 0.1
    """Base learning rate, for the whole global batch."""
    momentum: float = 0.9
    """SGD's momentum."""
    nesterov: bool = False
    """Nesterov momentum (SGD)."""
    weight_decay: float = 5e-4
    """Weight decay: L2 for sgd and adam, decoupled for adamw."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Moment decays of adam and adamw."""
    eps: float = 1e-8
    """Denominator floor of adam and adamw."""
    no_decay: Literal["none", "bias_norm"] = "none"
    """bias_norm: no weight decay on one-dimensional parameters (biases, norms, PReLU)."""


@dataclass
class ScheduleConfig:
    """Learning rate by applied step."""

    kind: Literal["constant", "step", "polynomial", "cosine", "gradual_cosine", "one_cycle"] = "step"
    """Shape after the warm-up. gradual_cosine: warmup_scheduler's form of the cosine, one step late."""
    milestones: list[float] = field(default_factory=list)
    """step: epochs at which the rate is multiplied by `gamma`."""
    gamma: float = 0.1
    """step: factor at each milestone."""
    power: float = 1.0
    """polynomial: exponent."""
    min_lr: float = 0.0
    """Last value of polynomial and cosine."""
    warmup_epochs: float = 0.0
    """Linear warm-up, in epochs."""
    warmup_steps: int | None = None
    """Linear warm-up in applied steps; replaces warmup_epochs."""
    warmup_start_lr: float = 0.0
    """Rate at which the warm-up begins."""
    first_step: Literal["warmup", "base"] = "warmup"
    """base: the first step of a warm-up runs at the base rate, as arcface_torch's scheduler does."""
    warmup_inclusive: bool = False
    """The last step of the warm-up runs at the base rate, not the one after it (the codes after MAE and DINO)."""


@dataclass
class NetworkConfig:
    """Settings of one network of the method; unset values are the run's."""

    optimizer: OptimizerConfig | None = None
    """Optimizer of this network."""
    schedule: ScheduleConfig | None = None
    """Schedule of this network."""
    lr_scale: float = 1.0
    """Factor on the learning rate."""
    every: int = 1
    """The network is stepped once in so many global batches, on the mean gradient of all of them."""
    accumulate: bool = True
    """false: on the gradient of the last of the `every` global batches alone; a method need not compute the others."""
    clip: ClipConfig | None = None
    """Gradient clipping of this network."""


@dataclass
class HeadConfig:
    """The class-sharded classifier; unset values are the method's (or those of the network it follows)."""

    sample_rate: float | None = None
    """Share of the classes that take part at a step (Partial FC)."""
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """Precision of the class centres and the products with them. bf16: operands of the products alone, weights and sums stay
    fp32. fp64: sums over classes round alike however the classes are shared out, so that runs on different numbers of
    ranks agree to the network's own rounding. auto: fp64 where it costs nothing (on the CPU, up to 2^22 numbers), else fp32."""
    optimizer: OptimizerConfig | None = None
    """Optimizer of the class centres."""
    lr_scale: float = 1.0
    """Factor on the network's learning rate."""
    weight_decay: float | None = None
    """Weight decay of the class centres."""
    clip: float = 0.0
    """Largest gradient norm of the class centres alone; 0: no clipping."""
    sparse_update: bool = False
    """With sample_rate below 1: leave unsampled classes untouched instead of giving them momentum and decay."""
    fused_step: bool = False
    """Step the class centres inside the backward pass, chunk by chunk: their gradient is never stored. One micro-batch a step,
    no fp16, no clipping that includes the head, all classes (sample_rate 1)."""
    momentum_dtype: Literal["fp32", "bf16"] = "fp32"
    """What SGD's momentum (AdamW's first moment) of the class centres is stored in; bf16 is rounded at random."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of MarginHead by name (quirks of official implementations)."""


@dataclass
class StagnationConfig:
    """A guard against training that silently stops learning (a loss spike, then a plateau)."""

    window: int = 0
    """Applied steps over which the mean loss is watched; 0: no guard."""
    spike: float = 1.5
    """A window's mean loss above this multiple of the best window so far counts as a spike."""
    patience: int = 3
    """Training stops when so many windows in a row stay above it."""


@dataclass
class TrainerConfig:
    """How the run is carried out."""

    output: str = "runs/train"
    """Run folder: config.yaml, checkpoints, logs, results.json."""
    global_batch: int = 512
    """Samples of one optimizer step, over all ranks and accumulation steps."""
    micro_batch: int | None = None
    """Samples of one forward pass on one rank; unset: global_batch / ranks. Accumulation follows."""
    accumulation: Literal["mean", "sum"] = "mean"
    """Gradients of a rank's micro-batches are averaged, or added up as arcface_torch does (then the rate means something else
    on another number of ranks)."""
    epochs: float | None = None
    """Length of the run in epochs (give this or steps)."""
    steps: int | None = None
    """Length of the run in global batches (give this or epochs)."""
    precision: Precision = "bf16"
    """bf16: autocast with fp32 weights (the default); fp16: autocast with a loss scale; fp32."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is sharded over ranks (1 optimizer state, 2 + gradients, 3 + parameters)."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """Gradient clipping."""
    seed: int = 0
    """Seed of initialisation, order, augmentation and dropout."""
    sync_bn: bool = False
    """BatchNorm statistics over all ranks (GPUs only)."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass; for networks that offer it."""
    compile: bool = False
    """torch.compile the networks."""
    channels_last: bool = False
    """Networks and images in channels-last memory order."""
    log_every: int = 20
    """Steps between log entries."""
    visuals_every: int = 0
    """Steps between pictures and histograms of the method; 0: none."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: at the end of every epoch. The last step always writes one."""
    keep_last: int = 2
    """Checkpoints kept; 0: all."""
    keep_best: int = 1
    """Best checkpoints kept besides, by the evaluation set named in evaluation.selection."""
    resume: str = "none"
    """none: start anew (refused if the folder has checkpoints); auto: go on from the last checkpoint, if any; or the path
    of a run or a checkpoint."""
    dry_run: bool = False
    """Build everything, print the plan (parameter groups, rates, classes) and stop before the first step; nothing is written."""
    max_steps: int | None = None
    """Stop after so many global batches counted from the beginning, without changing schedules (a pause; resume later)."""
    fp16_initial_scale: float = 65536.0
    """fp16: first loss scale."""
    fp16_growth_interval: int = 2000
    """fp16: applied steps without overflow after which the scale doubles."""
    fp16_min_scale: float = 1.0
    """fp16: training stops when the scale would fall below this."""
    timeout_seconds: int = 600
    """Longest wait for another rank before the run ends with an error."""
    stagnation: StagnationConfig = field(default_factory=StagnationConfig)
    """Guard against a silent plateau."""


@dataclass
class EvaluationConfig:
    """Verification during training."""

    bins: list[str] = field(default_factory=list)
    """Verification .bin files."""
    every: int = 0
    """Steps between evaluations; 0: at the end of every epoch. The last step always evaluates."""
    batch_size: int = 64
    """Images of one forward pass."""
    flip: bool = True
    """Fuse the mirrored view, as the method does."""
    folds: int = 10
    """Folds of the accuracy."""
    uneven_folds: bool = False
    """Accept sets whose pairs do not divide into the folds (RMFVD's 7178): the first folds have one pair more."""
    selection: str | Selection | None = None
    """Set (by file name without .bin) whose accuracy chooses the best checkpoint, or a rule (class_path of a Selection);
    unset: no best checkpoint is chosen."""


@dataclass
class LoggingConfig:
    """Where the numbers go besides the console and RUN/metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard events to RUN/tensorboard."""
    wandb: bool = False
    """Log to Weights & Biases (pip install facex-train[wandb])."""
    wandb_project: str = "facex"
    """Weights & Biases project."""
    wandb_name: str | None = None
    """Weights & Biases run name; unset: the name of the run folder."""
    console_seconds: float = 10.0
    """Seconds between progress lines where the output is no terminal."""


@dataclass
class TrainConfig:
    """A whole training run."""

    method: Method
    """The method: a short name (`MagFace`) or a class path, and its options."""
    data: DataConfig
    """Training data."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How the run is carried out."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How parameters move."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate by applied step."""
    networks: dict[str, NetworkConfig] = field(default_factory=dict)
    """Settings of single networks of the method by name."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The class-sharded classifier."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Verification during training."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where the numbers go."""
    init_from: list[Source] = field(default_factory=list)
    """Files that networks are initialised from."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Further DeepSpeed settings, passed through; what cannot be right is refused."""
