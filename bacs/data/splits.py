"""Task splits: which classes a network meets at which continual step.

Two numberings: an *original* class id (1..V) is what the dataset's masks hold; an *internal* label is the
1-based position of a class in the order of the split, so the logits of a network are always contiguous.
0 is background in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacs.data.class_lists import parse_class_lists, read_lists
from bacs.errors import RequestError

WHERE = "training.split"
JOINT = "joint"
_NEAREST = 6
"""How many legal alternatives an error lists at most, per kind."""


@dataclass(frozen=True, slots=True)
class TaskSplit:
    """The classes of each continual step."""

    steps: tuple[tuple[int, ...], ...]
    """Original class ids (1..V, as in the masks) per step, in internal class order."""
    name: str
    """As the user wrote it, in canonical form: ``2-2``, ``[[0,1],[2,3,4]]`` or ``joint``."""

    @property
    def n_steps(self) -> int:
        return len(self.steps)

    @property
    def class_order(self) -> tuple[int, ...]:
        """Original class id at each position; internal label = position + 1."""
        return tuple(chain.from_iterable(self.steps))

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Original class id of each internal label, background included."""
        return (0, *self.class_order)

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of foreground classes per step."""
        return tuple(len(step) for step in self.steps)

    def classes_seen(self, step: int) -> int:
        """Number of logits K_t after ``step``, background included."""
        self._check_step(step)
        return 1 + sum(self.heads[: step + 1])

    def old_classes(self, step: int) -> int:
        """Number of logits O_t the previous step left, background included; 0 at step 0."""
        self._check_step(step)
        return self.classes_seen(step - 1) if step else 0

    def step_of_class(self) -> NDArray[np.int64]:
        """(K,) The step that introduces each internal label; -1 for background, which belongs to all."""
        last_label = np.array(list(accumulate(self.heads)), dtype=np.int64)
        steps = np.searchsorted(last_label, np.arange(self.classes_seen(self.n_steps - 1)))
        steps[0] = -1
        return steps.astype(np.int64)

    def joint(self) -> TaskSplit:
        """One step with all classes in the same order: the upper reference."""
        return TaskSplit(steps=(self.class_order,), name=JOINT)

    def label_name(self, label: int, class_names: Sequence[str]) -> str:
        """The name of an internal label."""
        return "background" if label == 0 else class_names[self.class_order[label - 1] - 1]

    def _check_step(self, step: int) -> None:
        if not 0 <= step < self.n_steps:
            raise IndexError(f"step ({step}) must be in 0..{self.n_steps - 1} for the split {self.name}")


@dataclass(frozen=True, slots=True)
class DomainSplit(TaskSplit):
    """Every step brings new domains (cities) and shows all classes; there is no background.

    ``steps`` holds domain ids (1..D), internal labels are the original ones, 0..n_classes-1.
    """

    n_classes: int

    @property
    def label_ids(self) -> tuple[int, ...]:
        return tuple(range(self.n_classes))

    @property
    def heads(self) -> tuple[int, ...]:
        """By how much the classifier grows; its first growth makes one logit more."""
        return (self.n_classes - 1, *(0 for _ in self.steps[1:]))

    def classes_seen(self, step: int) -> int:
        self._check_step(step)
        return self.n_classes

    def step_of_class(self) -> NDArray[np.int64]:
        """(K,) zeros: all classes are there from step 0 on."""
        return np.zeros(self.n_classes, dtype=np.int64)

    def joint(self) -> DomainSplit:
        return DomainSplit((self.class_order,), JOINT, self.n_classes)

    def label_name(self, label: int, class_names: Sequence[str]) -> str:
        return class_names[label]


def parse_domains(
    split: str | Sequence[Sequence[Any]],
    domains: Sequence[str],
    n_classes: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> DomainSplit:
    """As :func:`parse_split`, with domains in the place of classes."""
    found = parse_split(split, domains, shuffle=shuffle, seed=seed)
    return DomainSplit(found.steps, found.name, n_classes)


def parse_split(
    split: str | Sequence[Sequence[Any]],
    class_names: Sequence[str],
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> TaskSplit:
    """Turns what the user wrote into the classes of each step.

    Args:
        split: ``X-Y`` (X classes first, then Y at a time), ``joint``, or one list of classes per step, each
            class by its name or, where no class is named by a number, by its id (1..V).
        class_names: the V foreground classes; the id of a class is its position + 1.
        shuffle: permute the classes over the steps, whose sizes stay.
        seed: of the permutation.

    Raises:
        RequestError: with the value, the rule it breaks, and the splits that are legal.
    """
    if isinstance(split, str):
        text = split.strip()
        if text.lower() == JOINT:
            plain = TaskSplit((tuple(range(1, len(class_names) + 1)),), JOINT)
        elif text.startswith("["):
            plain = _from_lists(read_lists(text, WHERE), class_names)
        else:
            plain = _from_pair(text, len(class_names))
    else:
        plain = _from_lists(split, class_names)
    return _shuffled(plain, seed) if shuffle else plain


def _from_lists(split: Sequence[Sequence[Any]], class_names: Sequence[str]) -> TaskSplit:
    steps = parse_class_lists(split, class_names, WHERE)
    written = ",".join("[" + ",".join(str(entry).strip() for entry in step) + "]" for step in split)
    return TaskSplit(steps, f"[{written}]")


def _shuffled(split: TaskSplit, seed: int) -> TaskSplit:
    order = [int(c) for c in np.random.default_rng(seed).permutation(split.class_order)]
    ends = list(accumulate(split.heads))
    steps = tuple(tuple(order[end - size : end]) for size, end in zip(split.heads, ends, strict=True))
    return TaskSplit(steps, split.name)


def _from_pair(text: str, n_classes: int) -> TaskSplit:
    match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", text)
    if match is None:
        raise RequestError.of(
            WHERE,
            f"is {text!r}, which is neither X-Y, nor 'joint', nor a list of lists of classes",
            f"write for example {_examples(n_classes)}, joint, or [[first classes],[next classes],...]",
        )
    first, increment = int(match[1]), int(match[2])
    left = n_classes - first
    if first < 1 or increment < 1 or left < 1 or left % increment:
        raise RequestError.of(
            WHERE, _pair_problem(text, first, increment, n_classes), _pair_remedy(first, increment, n_classes)
        )
    ids = range(1, n_classes + 1)
    later = tuple(tuple(ids[i : i + increment]) for i in range(first, n_classes, increment))
    return TaskSplit((tuple(ids[:first]), *later), f"{first}-{increment}")


def _pair_problem(text: str, first: int, increment: int, n_classes: int) -> str:
    if first < 1 or increment < 1:
        return f"is {text!r}, but both numbers of X-Y must be at least 1"
    if first >= n_classes:
        return f"is {text!r}, but X ({first}) must be less than the number of classes ({n_classes})"
    left = n_classes - first
    return (
        f"is {text!r}, but the {left} classes left of {n_classes} after the first {first} "
        f"must be divisible by {increment}"
    )


def _pair_remedy(first: int, increment: int, n_classes: int) -> str:
    """The legal splits with the same X, with the same Y, and a few besides."""
    same_first = [f"{first}-{y}" for y in _nearest(_divisors(n_classes - first), increment) if first]
    firsts = list(range(n_classes - increment, 0, -increment)) if increment else []
    same_increment = [f"{x}-{increment}" for x in _nearest(firsts, first)]
    groups = [
        f"with X={first}: {', '.join(same_first)}" if same_first else "",
        f"with Y={increment}: {', '.join(same_increment)}" if same_increment else "",
        f"or {_examples(n_classes)}, joint, or a list of classes per step",
    ]
    return f"splits that divide {n_classes} classes: " + "; ".join(group for group in groups if group)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _nearest(numbers: Sequence[int], target: int) -> list[int]:
    return sorted(sorted(numbers, key=lambda n: abs(n - target))[:_NEAREST])


def _examples(n_classes: int) -> str:
    """A long tail of single classes, and the most even split into two steps."""
    if n_classes < 2:
        return JOINT
    half = (n_classes + 1) // 2
    return ", ".join(dict.fromkeys([f"{half}-1", f"{half}-{n_classes - half}", f"{n_classes - 1}-1"]))
