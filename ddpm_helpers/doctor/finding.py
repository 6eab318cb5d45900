"""The result of a check: a verdict, the numbers behind it, one sentence and one repair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ddpm_helpers.checks import one_of

VERDICTS = ("ok", "look", "broken")  # in this order: the later, the worse
SKIPPED = "skipped"  # no verdict: the check would mean nothing here

# The order in which the doctor excludes causes: a check means little unless earlier ones pass.
ORDER = (
    "data", "schedule", "noising", "weights", "sampler", "repeats", "precision", "output", "loss",
    "overfit", "history", "time", "neighbours", "modes", "labels", "null label", "label dropout",
    "average", "loss weights", "guidance", "checkerboard", "samples",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the check, one of `ORDER`.
        verdict: ok, look (may be intended, may be a fault), broken, or skipped.
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
        one_of("verdict", self.verdict, (*VERDICTS, SKIPPED))
        one_of("check", self.name, ORDER)
        if self.alarm and not self.repair:
            raise ValueError(f"{self.name}: the verdict {self.verdict} needs a repair")

    @property
    def alarm(self) -> bool:
        """Whether the verdict is worse than ok."""
        return self.verdict in ("look", "broken")

    def __str__(self) -> str:
        words = f"{self.verdict:<6} {self.name:<14}{self.sentence}"
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


def skipped(name: str, reason: str) -> Finding:
    """A check that was not made, and why."""
    return Finding(name, SKIPPED, {}, reason)


Alarm = tuple[Callable[..., Finding], str, str]  # look or broken, sentence, repair
Rule = tuple[bool, Callable[..., Finding], str, str]  # whether it holds, and its alarm


def first_alarm(*rules: Rule) -> Alarm | None:
    """The alarm of the first rule that holds; None if none does."""
    return next((rule[1:] for rule in rules if rule[0]), None)


def conclude(name: str, alarm: Alarm | None, otherwise: str, **numbers: float) -> Finding:
    """The finding of an alarm; ok, with the sentence `otherwise`, if there is none."""
    if alarm is None:
        return ok(name, otherwise, **numbers)
    verdict, sentence, repair = alarm
    return verdict(name, sentence, repair, **numbers)


def decide(name: str, *rules: Rule, otherwise: str, **numbers: float) -> Finding:
    """The finding of the first rule that holds; ok, with the sentence `otherwise`, if none does.

    All rules are computed first, so a case in which one of them cannot be must return earlier.
    """
    return conclude(name, first_alarm(*rules), otherwise, **numbers)


def most_likely(findings: Iterable[Finding]) -> Finding | None:
    """The alarm to look at first: broken before look, then in `ORDER`; None if there is none."""
    alarms = [finding for finding in findings if finding.alarm]
    rank = {name: i for i, name in enumerate(ORDER)}
    return min(alarms, key=lambda f: (-VERDICTS.index(f.verdict), rank[f.name]), default=None)


def worst(findings: Iterable[Finding]) -> str:
    """The worst verdict among findings; ok if there are none."""
    verdicts = (finding.verdict for finding in findings if finding.verdict in VERDICTS)
    return max(verdicts, key=VERDICTS.index, default="ok")
