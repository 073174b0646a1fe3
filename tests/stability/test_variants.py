"""Variants beside each other: what is accepted, what is not, and what cannot be told."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from reseed import ReseedError
from reseed.stability.variants import compare_variants


def evidence(
    kappas: list[float], explained: float = 0.9, converged: int = 1, p: float = 0.01, l0: float = 8.0, steps: int = 100
) -> dict[str, Any]:
    """A stability.json whose kappa is the mean of these per-seed figures."""
    x = np.array(kappas)
    n = len(x)
    deleted = [float(np.delete(x, i).mean()) for i in range(n)]
    return {
        "architecture": "topk", "d_sae": 64, "k": 4, "seeds": n,
        "trained": {
            "explained_variance": {"value": explained, "low": explained - 0.01, "high": explained + 0.01},
            "pw_mcc": {"value": 0.5, "converged": converged},
            "l0": {"value": l0}, "steps": steps,
        },
        "trained - gaussian": {"pw_mcc": {"p": p, "p_floor": 0.008}},
        "records": [
            {"arm": "trained", "statistic": "pw_mcc", "latents": "alive", "kappa": float(x.mean()),
             "kappa_deleted": deleted}
        ],
    }  # fmt: skip


LOW, HIGH = [0.50, 0.52, 0.51, 0.49, 0.50], [0.80, 0.81, 0.79, 0.82, 0.80]


def verdict(table: dict[str, Any], name: str) -> str:
    return str(table["variants"][name]["against_baseline"]["verdict"])


def test_a_gain_is_accepted_unless_it_costs_explained_variance_or_is_not_converged() -> None:
    table = compare_variants(
        {
            "plain": evidence(LOW), "better": evidence(HIGH), "costly": evidence(HIGH, explained=0.8),
            "moving": evidence(HIGH, converged=0), "same": evidence(LOW[::-1]),
        },
        "plain", gain=0.0, drop=0.05, confidence=0.95,
    )  # fmt: skip
    found = {name: verdict(table, name) for name in ("better", "costly", "moving", "same")}
    assert found == {
        "better": "accepted", "costly": "not accepted", "moving": "not testable", "same": "not accepted",
    }  # fmt: skip
    assert table["corrected_confidence"] == pytest.approx(1 - 0.05 / 4)


def test_paired_differences_are_the_paired_t_test_and_unequal_numbers_are_welchs() -> None:
    paired = compare_variants({"a": evidence(LOW), "b": evidence(HIGH)}, "a", 0.0, 0.05, 0.95)
    found = paired["variants"]["b"]["against_baseline"]["kappa_difference"]
    assert found["p"] == pytest.approx(stats.ttest_rel(HIGH, LOW).pvalue)
    unequal = compare_variants({"a": evidence(LOW), "b": evidence(HIGH[:4])}, "a", 0.0, 0.05, 0.95)
    found = unequal["variants"]["b"]["against_baseline"]["kappa_difference"]
    assert found["p"] == pytest.approx(stats.ttest_ind(HIGH[:4], LOW, equal_var=False).pvalue)


def test_p_values_are_corrected_over_the_variants_with_their_floor() -> None:
    table = compare_variants(
        {name: evidence(LOW, p=p) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03), ("d", 0.005))},
        "a", 0.0, 0.05, 0.95,
    )  # fmt: skip
    found = [table["variants"][name]["trained - gaussian"]["p_holm"] for name in "abcd"]
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert table["variants"]["a"]["trained - gaussian"]["p_holm_floor"] == pytest.approx(0.032)


def test_pairs_are_not_counted_as_seeds() -> None:
    one = evidence(HIGH)
    one["records"][0]["kappa_deleted"] *= 2
    with pytest.raises(ReseedError, match=r"b/stability.json: pw_mcc: found 10 left-out values for 5 ind"):
        compare_variants({"a": evidence(LOW), "b": one}, "a", 0.0, 0.05, 0.95)


def test_without_a_kappa_nothing_is_accepted() -> None:
    one = evidence(HIGH)
    for name in ("kappa", "kappa_deleted"):
        del one["records"][0][name]
    table = compare_variants({"a": evidence(LOW), "b": one}, "a", 0.0, 0.05, 0.95)
    assert verdict(table, "b") == "not testable"


def test_at_equal_l0_another_l0_or_number_of_steps_is_not_comparable() -> None:
    found = {
        "plain": evidence(LOW), "denser": evidence(HIGH, l0=8.5), "near": evidence(HIGH, l0=8.3),
        "longer": evidence(HIGH, steps=200),
    }  # fmt: skip
    table = compare_variants(found, "plain", 0.0, 0.05, 0.95, l0_tolerance=0.05)
    assert table["l0_tolerance"] == 0.05
    assert [verdict(table, name) for name in ("denser", "near", "longer")] == [
        "not comparable", "accepted", "not comparable",
    ]  # fmt: skip
    free = compare_variants(found, "plain", 0.0, 0.05, 0.95)
    assert verdict(free, "denser") == verdict(free, "longer") == "accepted"
