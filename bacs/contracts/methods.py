"""What every method promises to the run."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bacs.checkpoints import CheckpointFolder
from bacs.contracts.base import Contract, differing, explained, fail, in_another_process, listed, load, require, slow
from bacs.contracts.tiny import TinyRuns, first_batch, labelled, losses_of
from bacs.contracts.values import other_values
from bacs.data import IGNORE
from bacs.errors import RequestError
from bacs.events import EpochEnded, RunEnded, StepEnded
from bacs.lineage import stage_key
from bacs.losses.base import Batch
from bacs.run import ContinualRun
from bacs.schema import acts_from

SMALL = {"buffer_size": 20}
EXACT = {"detector_dropout": 0.0, "replay_batch_size": 6}
"""Keys that are set where a class has them, the latter for the comparison of ranks: dropout is drawn by each rank."""


class MethodContract(Contract):
    """Tests of a :class:`bacs.losses.base.Method`, in runs of a second on the digits."""

    group = "loss"
    exact: ClassVar[dict[str, Any]] = {}
    """Further keys for the comparison of ranks: without dropout, and with terms small enough for rounding errors."""
    rank_tolerance: ClassVar[float] = 1e-3
    """Relative difference of the terms of later steps on one and on two ranks. Where the teacher labels pixels, a
    rounding error makes some of them fall otherwise, so that 1e-2 is fair."""

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, allowed: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
        with explained(f"reading the settings of {cls.target}", "correct `settings`, or --set KEY=VALUE"):
            settings = cls._known(SMALL) | cls.settings
            runs = TinyRuns(tmp_path_factory.getbasetemp() / "digits", {"_target_": cls.target, **settings})
            runs.config()
        return runs

    @classmethod
    def _known(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(cls.component().factory.Config)}
        return {name: value for name, value in values.items() if name in names}

    @pytest.mark.parametrize("step", [0, 1])
    def test_losses_and_gradients_are_finite_on_degenerate_batches(self, runs: TinyRuns, step: int) -> None:
        run = runs.inside(step)
        batch = first_batch(run, step)
        kinds = (("background", 0, 0), ("of one class", 1 + 5 * step, 1), ("ignored", IGNORE, IGNORE))
        for name, label, remembered in kinds:
            where = f"in step {step}, where every pixel is {name}"
            run.model.zero_grad()
            with explained(f"terms() {where},", "treat a batch without one kind of pixel as a case like any other"):
                terms = run._terms(run._context(step, 0), labelled(batch, label, remembered))
            _require_terms(terms, where)
            with explained(f"the backward pass {where},", "keep each term a function of the logits: 0 * logits.sum()"):
                torch.stack(list(terms.values())).sum().backward()
            wrong = [n for n, p in run.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            remedy = "do not select after a log, root or quotient of 0: torch.where() passes NaN gradients on"
            require(not wrong, f"{where}, the gradient of {listed(wrong)} is not finite", remedy)

    def test_an_iteration_leaves_the_teacher_and_the_batch_alone(self, runs: TinyRuns) -> None:
        run = runs.inside(1)
        teacher = run.teacher
        before = {} if teacher is None else {name: t.clone() for name, t in teacher.state_dict().items()}
        batch = first_batch(run, 1)
        given = {name: tensor.clone() for name, tensor in _tensors(batch).items()}
        optimizer = run._optimizer_of_step()
        optimizer.begin(0, 0)
        optimizer.add(run._terms(run._context(1, 0), batch))
        optimizer.finish()
        changed = differing(given, _tensors(batch))
        require(not changed, f"terms() has changed {listed(changed)} of the batch", "work on a copy: no tensor.op_()")
        if teacher is None:
            return
        changed = differing(before, teacher.state_dict())
        remedy = "ask it by context.taught(images) alone, and leave its mode and its parameters as they are"
        require(not changed, f"an iteration has changed {listed(changed)} of the teacher", remedy)
        training = [name or "teacher" for name, module in teacher.named_modules() if module.training]
        require(not training, f"an iteration has put {listed(training)} of the teacher into train mode", remedy)
        learns = [name for name, p in teacher.named_parameters() if p.requires_grad or p.grad is not None]
        require(not learns, f"{listed(learns)} of the teacher have a gradient", remedy)

    def test_fields_that_act_later_leave_step_0_bit_identical(self, runs: TinyRuns) -> None:
        later = _later_changes(runs)
        plain, changed = runs.after_step_0(), runs.after_step_0(**later)
        if _differing(plain, changed):
            for name, value in later.items():
                if found := _differing(plain, runs.after_step_0(**{name: value})):
                    problem = f"{name} is declared to act from a later step, but {name}={value} changes step 0: "
                    problem += f"its outcome has other {listed(found)}"
                    fail(problem, f"declare it {name}: ... = knob(..., acts_from=0), or do not read it in step 0")
            fail(f"{later} together change the outcome of step 0", "do not read them in step 0, or declare acts_from=0")
        for step, equal in ((0, True), (1, not later)):
            one, other = (stage_key(run.config, step, runs.data.manifest, run.numerics) for run in (plain, changed))
            problem = f"the keys of step {step} with and without {later} are {'different' if equal else 'equal'}"
            remedy = "declare by acts_from of each knob the first step whose outcome it can change"
            require((one == other) == equal, problem, remedy)

    def test_resumed_inside_a_step_is_bit_identical(self, runs: TinyRuns, tmp_path: Path) -> None:
        whole, folder = runs.run(), CheckpointFolder(tmp_path, "same")
        for event in whole.events():
            place = (event.step, getattr(event, "epoch", None)) if isinstance(event, EpochEnded | StepEnded) else None
            if place in ((0, None), (1, 1)):
                folder.save(whole.snapshot())
            last = event
        resumed = runs.run()
        remedy = "keep what lives across iterations in the module of build_state(), and derive the rest in begin_step()"
        with explained("resuming after the first epoch of step 1", remedy):
            resumed.restore(CheckpointFolder(tmp_path, "same").latest())
            for event in resumed.events():
                again = event
        found = _differing(whole, resumed)
        where = "a run that was resumed after the first epoch of step 1 ended with other"
        require(not found, f"{where} {listed(found)}", remedy)
        assert isinstance(last, RunEnded)
        assert isinstance(again, RunEnded)
        require(again.final == last.final, f"{where} metrics: {again.final} instead of {last.final}", remedy)

    @slow
    def test_two_ranks_equal_one(self, runs: TinyRuns) -> None:
        exact = self._known(EXACT) | self.exact
        one = losses_of(runs.losses(1, **exact))
        remedy = "divide sums by bacs.distributed.mean_share(count), and let any_rank() decide where branches differ"
        with explained("training on two ranks", remedy):
            two = in_another_process(losses_of, runs.losses(2, **exact), seconds=200)
        missing = sorted(one.keys() ^ two.keys())
        require(not missing, f"one rank or two alone measure {listed(missing)}", remedy)
        for (name, epoch), value in one.items():
            close = self.rank_tolerance if epoch > 2 else 1e-3  # two epochs a step
            if name.startswith("train/") and two[name, epoch] != pytest.approx(value, rel=close, abs=1e-5):
                problem = f"{name} of epoch {epoch} is {value:.6g} on one rank, {two[name, epoch]:.6g} on two"
                fail(f"{problem}; they may differ by {close:g} of it", f"{remedy}; dropout off: `exact`")

    def test_it_explains_itself(self) -> None:
        text = inspect.getdoc(load(self.target)) or ""
        remedy = "say in it which terms are summed in 'Step 0: ...' and in 'Steps >= 1: ...' (or 'later')"
        for what, pattern in (("step 0", r"\bStep 0\b"), ("later steps", r"\bSteps >= 1\b|\blater\b")):
            problem = f"the docstring of {self.target} does not say what happens in {what}: {text[:80]!r}"
            require(re.search(pattern, text), problem, remedy)


def _require_terms(terms: Any, where: str) -> None:
    rule = "terms() returns a dict with a scalar tensor for each term, by name"
    if not isinstance(terms, dict) or not terms:
        fail(f"{where}, terms() returned {terms!r}", rule)
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.shape != ():
            fail(f"{where}, the term {name!r} is {getattr(value, 'shape', value)!r}, no scalar tensor", rule)
        remedy = "a mean over no pixel is 0/0: divide by at least 1, so that the term is 0 there"
        require(value.isfinite(), f"{where}, the term {name!r} is {float(value.detach())}", remedy)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Of a batch and its draw from the memory, by name."""
    parts: list[Any] = [batch] if batch.replay is None else [batch, batch.replay]
    found = {f"{type(p).__name__}.{f.name}": getattr(p, f.name) for p in parts for f in dataclasses.fields(p)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _later_changes(runs: TinyRuns) -> dict[str, Any]:
    """Another value for every field that is declared to act from a later step on, as far as they go together."""
    settings = runs.config().loss.settings
    later = [name for name, step in acts_from(type(settings)).items() if step is not None and step > 0]
    changes: dict[str, Any] = {}
    for name, value in other_values(settings, later, "loss").items():
        try:
            runs.config(**changes, **{name: value})
        except RequestError:
            continue
        changes[name] = value
    return changes


def _differing(one: ContinualRun, other: ContinualRun) -> list[str]:
    return differing(one.model.state_dict(), other.model.state_dict())
