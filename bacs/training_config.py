"""The keys of ``training``: the protocol of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bacs.errors import Fault
from bacs.networks import HEAD_INITS, TOKEN_INITS
from bacs.retired import retired_faults
from bacs.schema import knob, parse_all
from bacs.step_overrides import plain_overrides

MODES = ("overlap", "disjoint", "sequential", "joint")
DEBUG_ITERATIONS, DEBUG_IMAGES, SWEEP_SHARE = 3, 6, 0.1
MOST_EPOCHS, MOST_IMAGES, MOST_WORKERS, LONGEST_NAME = 100_000, 16_384, 512, 200
"""Beyond what anybody needs: epochs of a step, images at a time, processes that read, bytes of a name."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Keys of ``training``."""

    split: Any = knob("2-2")
    """Classes per step: ``X-Y`` (first X, then Y at a time) or explicit lists such as ``[[0,1],[2,3,4]]``. The
    original's ``initial_increment=X increment=Y`` says the same."""
    mode: str = knob("overlap", choices=MODES)
    """Labelling scenario; ``joint`` trains all classes in one step and groups its metrics by ``split``."""
    shuffle_classes: bool = knob(False)
    """Permute the class order with ``seed``."""
    seed: int = knob(42, ge=0)

    epochs: int = knob(4, ge=1, le=MOST_EPOCHS)
    """Epochs of step 0, and of later steps unless ``next_epochs`` is set. A checkpoint is due after each."""
    next_epochs: int | None = knob(None, acts_from=1, ge=1, le=MOST_EPOCHS)
    iterations_per_epoch: int | None = knob(100, ge=1, le=10**7)
    """Optimisation steps in an epoch; null: one pass over the images of the step."""
    steps_per_class: int | None = knob(None, ge=1, le=10**7)
    """Optimisation steps of a continual step per class that it brings, in the place of ``epochs``."""
    batch_size: int = knob(16, ge=1, le=MOST_IMAGES)
    """Images of the current step per forward pass, over all GPUs together."""
    accumulate_gradients: int = knob(1, ge=1, le=10_000)
    """Batches whose gradients are averaged into one optimisation step."""
    micro_batches: int = knob(1, acts_from=None, measures=True, ge=1, le=MOST_IMAGES)
    """Pieces into which every batch is cut, replayed images included, each with a forward and a backward pass of its
    own: less memory, more time. Images, order, optimisation steps and schedule stay, and checkpoints fit, so a run may
    go on with another number. Results agree up to rounding, statistics of batch norm and means over some pixels alone
    (bacs/micro_batches.py)."""
    lr_next: float | None = knob(None, acts_from=1, gt=0)
    """Base learning rate of steps >= 1; null: ``optimizer.lr``."""
    scheduler_interval: str = knob("step", choices=("step", "epoch"))
    """What the schedule counts: optimisation steps or epochs."""
    scheduler_frequency: int = knob(1, ge=1, le=10**9)
    """The schedule moves on after this many of them."""
    gradient_clip_val: float | None = knob(2.0, gt=0)
    gradient_clip_algorithm: str = knob("value", choices=("value", "norm"))
    new_head_init: str | None = knob(None, acts_from=1, choices=(None, *HEAD_INITS))
    """How the heads of new classes start; null: the method's own choice. See bacs/networks/heads.py."""
    new_token_init: str = knob("mean", acts_from=1, choices=TOKEN_INITS)
    """The same for the class tokens of ``network=transformer``."""
    bg_detector: bool | None = knob(None)
    """Train the background-shift detector beside the network; null: where the method uses it. So also in joint mode."""

    overrides_from_step: dict[str, Any] = knob({})
    """Keys of the loss that change at a later step, for example ``{3: {loss.lkd: 0.5}}``: from step 3 on (steps count
    from 0) another lambda. Steps before are the same as without it, and shared. A space may vary such a key as
    ``training.overrides_from_step.3.loss.lkd``."""

    mixed_precision: bool = knob(True)
    """bfloat16 autocast where the hardware computes in it; float32 elsewhere."""
    allow_tf32: bool = knob(True)
    """Let a GPU round the factors of float32 products to TF32."""
    apex: bool = knob(False, acts_from=None)
    """Accepted from configurations of the original; it means ``mixed_precision``."""
    device: str = knob("auto", choices=("auto", "cpu", "cuda"))
    n_gpus: int = knob(1, ge=1, le=1024)
    """Local worker processes that share every batch, one GPU each; with ``device=cpu`` processes on the CPU. Means,
    batch norms, prototypes and metrics are those of all workers together, so the number changes speed, not results."""
    threads: int | None = knob(None, ge=1, le=1024)
    """CPU threads of a process; null: all cores."""
    num_workers: Any = knob("auto", acts_from=None)
    """Processes that read images for a worker; auto: none where images are in memory, else what the cores allow."""

    val_every: int = knob(1, acts_from=None, measures=True, ge=1, le=MOST_EPOCHS)
    """Epochs between two measurements of ``val/miou``; the end of a step is always measured."""
    eval_batch_size: int = knob(50, acts_from=None, measures=True, ge=1, le=MOST_IMAGES)
    log_images: int = knob(0, acts_from=None, measures=True, ge=0, le=10_000)
    """Test images drawn after each step: image, truth, prediction and what the detector has seen; from step 1 on also
    where the pixels of old classes went (``background-shift``). Pictures lie in ``pictures/`` beside the checkpoints,
    those of a sweep in the folder of the trial."""
    log_prototypes: bool = knob(False, acts_from=None, measures=True)
    """After each step draw the class means of the projected features on the validation images and the prototypes
    (t-SNE), and measure the L1 distance of each class to the prototype of its step (``prototypes/l1/<class>``)."""
    log_drift: bool = knob(False, acts_from=None, measures=True)
    """Measure at every fourth optimisation step how far the features of ten images of the step before have moved
    (``drift/features``, the mean of an epoch), and draw it."""
    log_animation: bool = knob(False, acts_from=None, measures=True)
    """Leave ``confusion.gif`` among the results: the confusion matrix over training, a frame for each measurement of
    ``val/miou`` (validation images; with more than about a hundred a step, for some of them) and one after each step
    (test images)."""
    debug: bool = knob(False)
    """Three optimisation steps an epoch, six images an evaluation: does everything run?"""
    sweep: bool = knob(False)
    """Train on a tenth of each step's images, drawn once by ``seed``."""

    any_device: bool = knob(False, acts_from=None)
    """Take shared steps that were computed on another kind of GPU, or by CPUs with other instructions, too: results may
    then differ in their last digits from those of one device, and say so."""

    name: str = knob("run", acts_from=None)
    exp_name: str | None = knob(None, acts_from=None)
    ckpt_dir: str | None = knob(None, acts_from=None, path=True)
    """Where ``python -m bacs`` keeps its checkpoints and continues from; null: no checkpoints."""
    stages: str | None = knob(None, acts_from=None, path=True)
    """Folder in which runs share the outcomes of their steps: one that finds there what it would compute begins with
    the next step. Needs checkpoints; null: nothing is shared. Sweeps share ``stages`` in their storage folder."""

    def epochs_of(self, step: int) -> int:
        """Without ``steps_per_class``."""
        return self.epochs if step == 0 or self.next_epochs is None else self.next_epochs

    def lengths(self, step: int, n_images: int, n_new: int) -> list[int]:
        """Optimisation steps of each epoch of a continual step; a partial last batch is dropped.

        Args:
            step: 0-based.
            n_images: images of the step.
            n_new: classes that the step brings.
        """
        length = self.iterations_per_epoch or max(1, n_images // self.batch_size // self.accumulate_gradients)
        if self.steps_per_class is None:
            lengths = [length] * self.epochs_of(step)
        else:
            whole, rest = divmod(self.steps_per_class * n_new, length)
            lengths = [length] * whole + [rest] * (rest > 0)
        return [min(length, DEBUG_ITERATIONS) for length in lengths] if self.debug else lengths


def parse_training(section: Mapping[str, Any]) -> tuple[TrainingConfig | None, list[Fault]]:
    """Understands the original's way to write a split, and says what became of its other keys."""
    values, faults = retired_faults("training", section, TrainingConfig)
    increments = [values.pop(key, None) for key in ("initial_increment", "increment")]
    if increments != [None, None]:
        if None in increments:
            remedy = "give both initial_increment and increment, or training.split=X-Y"
            faults.append(Fault("training.increment", f"has only one of its two numbers {increments}", remedy))
        else:
            values["split"] = "{}-{}".format(*increments)
    if values.get("overrides_from_step"):
        values["overrides_from_step"], found = plain_overrides(values["overrides_from_step"])
        faults += found
    parsed, found = parse_all(TrainingConfig, values, "training")
    return parsed, faults + found + _check_numbers(parsed)


def _check_numbers(training: TrainingConfig | None) -> list[Fault]:
    if training is None:
        return []
    faults = []
    workers = training.num_workers
    if workers != "auto" and (type(workers) is not int or not 0 <= workers <= MOST_WORKERS):
        problem = f"is {workers!r}, but must be auto or a number from 0 to {MOST_WORKERS}"
        faults.append(Fault("training.num_workers", problem, "set it to auto"))
    per_class, length = training.steps_per_class, training.iterations_per_epoch
    if per_class is not None and length is not None and per_class / length > MOST_EPOCHS:
        problem = f"is {per_class}, in epochs of {length} iterations more than {MOST_EPOCHS:,} of them a class"
        faults.append(Fault("training.steps_per_class", problem, "raise training.iterations_per_epoch"))
    if training.batch_size % training.n_gpus:
        problem = f"is {training.batch_size}, which {training.n_gpus} workers (training.n_gpus) cannot share evenly"
        faults.append(Fault("training.batch_size", problem, f"give a multiple of {training.n_gpus}"))
    name = training.exp_name
    if name is not None and (name in (".", "..") or "/" in name or not name.isprintable()):
        problem = f"is {name!r}, but must name a folder inside others"
        faults.append(Fault("training.exp_name", problem, "give a printable name with no '/' in it"))
    elif name is not None and len(os.fsencode(name)) > LONGEST_NAME:
        problem = f"is {name[:40]}... of {len(name)} characters, but a name has at most {LONGEST_NAME} bytes"
        faults.append(Fault("training.exp_name", problem, "give a shorter name"))
    return faults
