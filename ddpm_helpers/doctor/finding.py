"""The result of a check: a verdict, the numbers behind it, one sentence and one repair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

VERDICTS = ("ok", "look", "broken")  # in this order: the later, the worse

# The order in which the doctor excludes causes: a check means little unless earlier ones pass.
ORDER = (
    "data", "schedule", "noising", "weights", "sampler", "precision", "overfit", "loss", "history",
    "time", "neighbours", "modes", "labels", "null label", "label dropout", "average",
    "loss weights", "guidance", "checkerboard", "reach", "samples", "distance",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the check, one of `ORDER`.
        verdict: ok, look (may be intended, may be a fault) or broken.
        numbers: what was measured, name -> value.
        sentence: what it means.
        repair: what to do about it; empty if the verdict is ok.
    Raises:
        ValueError: unknown name or verdict, or an alarm without a repair.
    """

    name: str
    verdict: str
    numbers: Mapping[str, float] = field(hash=False)
    sentence: str
    repair: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"unknown verdict {self.verdict!r}; choose from {', '.join(VERDICTS)}")
        if self.name not in ORDER:
            raise ValueError(f"unknown check {self.name!r}; choose from {', '.join(ORDER)}")
        if self.alarm and not self.repair:
            raise ValueError(f"{self.name}: the verdict {self.verdict} needs a repair")

    @property
    def alarm(self) -> bool:
        """Whether the verdict is worse than ok."""
        return self.verdict != "ok"

    def __str__(self) -> str:
        words = f"{self.verdict:<7}{self.name:<14}{self.sentence}"
        return f"{words}. {self.repair}" if self.alarm else words


def ok(name: str, sentence: str, **numbers: float) -> Finding:
    """A finding that raises no alarm."""
    return Finding(name, "ok", numbers, sentence)


def look(name: str, sentence: str, repair: str, **numbers: float) -> Finding:
    """A finding that may be intended."""
    return Finding(name, "look", numbers, sentence, repair)


def broken(name: str, sentence: str, repair: str, **numbers: float) -> Finding:
    """A finding that is a fault."""
    return Finding(name, "broken", numbers, sentence, repair)


def most_likely(findings: Iterable[Finding]) -> Finding | None:
    """The alarm to look at first: broken before look, then in `ORDER`; None if there is none."""
    alarms = [finding for finding in findings if finding.alarm]
    rank = {name: i for i, name in enumerate(ORDER)}
    return min(alarms, key=lambda f: (-VERDICTS.index(f.verdict), rank[f.name]), default=None)


def worst(findings: Iterable[Finding]) -> str:
    """The worst verdict among findings; ok if there are none."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default="ok")
