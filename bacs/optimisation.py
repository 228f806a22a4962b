"""The optimizer of one continual step: its learning rate, accumulated gradients, clipping, and steps over all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bacs.config import RunConfig
from bacs.distributed import average_gradients
from bacs.losses.base import Method
from bacs.model import Model


class StepOptimizer:
    """Made anew at the start of every continual step."""

    def __init__(self, config: RunConfig, method: Method, model: Model, step: int, lengths: Sequence[int]) -> None:
        """Args: lengths: optimisation steps of each epoch of the continual step."""
        training = config.training
        self.training = training
        self.model = model
        self._lengths = lengths
        self._schedule = config.scheduler.factory(config.scheduler.settings)
        self._base_lr = (training.lr_next if step > 0 else None) or config.optimizer.settings["lr"]
        groups = [
            {"params": [p for p in parameters if p.requires_grad], "lr_factor": factor}
            for parameters, factor in method.parameter_groups(model)
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizer: torch.optim.Optimizer = config.optimizer.factory(groups, **config.optimizer.settings)

    @property
    def lr(self) -> float:
        """The learning rate of the first group at the last step taken."""
        return float(self._optimizer.param_groups[0]["lr"])

    def begin(self, epoch: int, iteration: int) -> None:
        """Sets the learning rate of an optimisation step and clears the gradients.

        Args:
            epoch: 0-based, within the continual step.
            iteration: 0-based, within the epoch.
        """
        factor = self._schedule.factor(*self._position(epoch, iteration))
        for group in self._optimizer.param_groups:
            group["lr"] = self._base_lr * factor * group["lr_factor"]
        self._optimizer.zero_grad(set_to_none=True)

    def add(self, terms: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Adds the gradient of the sum of the terms, as that of a share of one of ``accumulate_gradients`` batches."""
        loss = torch.stack(list(terms.values())).sum()
        if share < 1:
            loss = loss * share
        if self.training.accumulate_gradients > 1:
            loss = loss / self.training.accumulate_gradients
        loss.backward()

    def finish(self) -> None:
        """One optimisation step with the gradients of all ranks."""
        average_gradients(self.model.parameters())
        self._clip()
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)

    def _position(self, epoch: int, iteration: int) -> tuple[int, int]:
        """(position, positions in the continual step) on the schedule."""
        if self.training.scheduler_interval == "epoch":
            now, total = epoch, len(self._lengths)
        else:
            now, total = sum(self._lengths[:epoch]) + iteration, sum(self._lengths)
        every = self.training.scheduler_frequency
        return now // every, -(-total // every)

    def _clip(self) -> None:
        if self.training.gradient_clip_val is None:
            return
        by_norm = self.training.gradient_clip_algorithm == "norm"
        clip = nn.utils.clip_grad_norm_ if by_norm else nn.utils.clip_grad_value_
        clip(self.model.parameters(), self.training.gradient_clip_val)
