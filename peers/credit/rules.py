"""The credit rules of a run: the recipe's numbers for audits and credit. Rates are in millionths."""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol.rules import Rules
from recipes.schema.recipe import Recipe

MILLION = 1_000_000  # rates are whole numbers, so that every machine draws the same claims


@dataclass(frozen=True, kw_only=True)
class CreditRules:
    """The rules by which every peer of a run audits and credits. Spans of time are rounds."""

    protocol: Rules
    batch_slots: int  # of one local step
    flops_per_token: int
    escrow_rounds: int = 110  # W
    newcomer_rate: int = 150_000
    least_rate: int = 35_000
    trusted_passes: int = 10  # from so many passes on, the audit rate is lower
    full_replay_rate: int = 1_000_000
    repeat_rate: int = 100_000
    audit_rounds: int = 4  # time of an auditor before the next one is asked
    retention_rounds: int = 8  # time in which a peer must open a claim that was drawn
    dispute_rounds: int = 16
    expulsion_rounds: int = 110
    calibrated: frozenset[str] = frozenset()  # numeric classes with thresholds

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a full local step."""
        return self.batch_slots * self.protocol.tokens_per_slot

    def audit_rate(self, *, passes: int, numeric_class: str) -> int:
        """Return how many of a million claims of a peer are audited.

        It falls with the audits that the peer passed since it joined or last failed one, to a floor above
        zero. Without calibrated thresholds, nothing vests and an audit only measures: the rate is the floor.
        """
        if numeric_class not in self.calibrated:
            return self.least_rate
        if passes < self.trusted_passes:
            return self.newcomer_rate
        return max(self.least_rate, self.newcomer_rate * self.trusted_passes // passes)


def credit_rules(recipe: Recipe, protocol: Rules) -> CreditRules:
    """Return the credit rules that a published recipe sets.

    Raises:
        RecipeError: the recipe is a template and leaves `credit.flops_per_token` to its parameters.
    """
    checks = recipe.verification
    return CreditRules(
        protocol=protocol,
        batch_slots=recipe.inner.batch_slots,
        flops_per_token=recipe.flops_per_token,
        escrow_rounds=recipe.credit.escrow_rounds,
        newcomer_rate=round(checks.newcomer_audit_rate * MILLION),
        least_rate=round(checks.least_audit_rate * MILLION),
        trusted_passes=checks.trusted_passes,
        full_replay_rate=round(checks.full_replay_rate * MILLION),
        repeat_rate=round(checks.repeat_rate * MILLION),
        audit_rounds=checks.audit_rounds,
        retention_rounds=checks.retention_rounds,
        dispute_rounds=checks.dispute_rounds,
        expulsion_rounds=checks.expulsion_rounds,
        calibrated=frozenset(checks.thresholds),
    )
