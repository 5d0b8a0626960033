"""1:1 verification against the official functions, written out pair by threshold in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from facex.errors import DataError, VerificationSetError
from facex.eval.folds import fold_bounds
from facex.eval.verification import evaluate_distances, evaluate_pairs


def rows(pairs: int, dim: int = 16, seed: int = 0, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    left = rng.normal(size=(pairs, dim))
    right = np.where(same[:, None], left, rng.normal(size=(pairs, dim))) + noise * rng.normal(size=(pairs, dim))
    return np.stack([left, right], 1).reshape(2 * pairs, dim) + 0.3, same


def splits(pairs: int, folds: int) -> Any:
    return KFold(folds).split(np.arange(pairs)) if folds > 1 else [(np.arange(pairs), np.arange(pairs))]


def confusion(threshold: float, distances: np.ndarray, same: np.ndarray) -> tuple[float, float, float]:
    accepted = distances < threshold
    tp, fp = np.sum(accepted & same), np.sum(accepted & ~same)
    fn, tn = np.sum(~accepted & same), np.sum(~accepted & ~same)
    tpr = 0 if tp + fn == 0 else tp / (tp + fn)
    fpr = 0 if fp + tn == 0 else fp / (fp + tn)
    return tpr, fpr, (tp + tn) / len(distances)


def official(distances: Any, same: np.ndarray, folds: int) -> dict[str, Any]:
    """insightface's calculate_roc and calculate_val with numpy.interp in place of SciPy's interp1d."""
    grid, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    accuracy, best, tprs, fprs, vals, fars = [], [], [], [], [], []
    for train, test in splits(len(same), folds):
        d = distances(train)
        chosen = int(np.argmax([confusion(t, d[train], same[train])[2] for t in grid]))
        best.append(grid[chosen])
        on_test = np.array([confusion(t, d[test], same[test]) for t in grid])
        accuracy.append(on_test[chosen, 2])
        tprs.append(on_test[:, 0])
        fprs.append(on_test[:, 1])
        far = np.array([np.sum((d[train] < t) & ~same[train]) / np.sum(~same[train]) for t in fine])
        threshold = np.interp(1e-3, far, fine) if far.max() >= 1e-3 else 0.0
        vals.append(np.sum((d[test] < threshold) & same[test]) / np.sum(same[test]))
        fars.append(np.sum((d[test] < threshold) & ~same[test]) / np.sum(~same[test]))
    return {
        "fold_accuracy": accuracy,
        "thresholds": best,
        "tpr": np.mean(tprs, 0),
        "fpr": np.mean(fprs, 0),
        "val": np.mean(vals),
        "val_std": np.std(vals),
        "val_far": np.mean(fars),
    }


def check(result: Any, want: dict[str, Any]) -> None:
    for name, value in want.items():
        np.testing.assert_allclose(getattr(result, name), value, rtol=0, atol=1e-12, err_msg=name)
    assert result.accuracy == pytest.approx(np.mean(want["fold_accuracy"]))
    assert result.std == pytest.approx(np.std(want["fold_accuracy"]))


@pytest.mark.parametrize(("pairs", "folds"), [(600, 10), (605, 10), (300, 3), (200, 1)])
def test_insightface(pairs: int, folds: int) -> None:
    embeddings, same = rows(pairs, seed=pairs)
    unit = normalize(embeddings)
    distances = np.sum(np.square(unit[0::2] - unit[1::2]), 1)
    want = official(lambda train: distances, same, folds)
    check(evaluate_pairs(embeddings, same, folds, uneven_folds=True), want)
    check(evaluate_distances(distances, same, folds, uneven_folds=True), want)


def test_100000_pairs_in_float64() -> None:
    rng = np.random.default_rng(5)
    same = rng.random(100_000) < 0.3
    distances = np.clip(rng.normal(1.9, 0.4, len(same)) - 0.8 * same, 0, 4)
    check(evaluate_distances(distances, same, 1), official(lambda train: distances, same, 1))


def test_pca_is_fitted_on_the_training_folds() -> None:
    embeddings, same = rows(200, seed=7)
    unit = normalize(embeddings)

    def distances(train: np.ndarray) -> np.ndarray:
        model = PCA(5, svd_solver="full").fit(np.concatenate([unit[0::2][train], unit[1::2][train]]))
        left, right = normalize(model.transform(unit[0::2])), normalize(model.transform(unit[1::2]))
        return np.sum(np.square(left - right), 1)

    check(evaluate_pairs(embeddings, same, 10, pca=5), official(distances, same, 10))
    with pytest.raises(DataError, match="PCA to 17 dimensions"):
        evaluate_pairs(embeddings, same, 10, pca=17)


def test_magface_subtracts_the_training_mean() -> None:
    embeddings, same = rows(200, seed=8)
    left, right = embeddings[0::2], embeddings[1::2]

    def distances(train: np.ndarray) -> np.ndarray:
        mean = np.concatenate([left[train], right[train]]).mean(0)
        a, b = left - mean, right - mean
        cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return np.arccos(np.clip(cosine, -1, 1)) / np.pi

    check(evaluate_pairs(embeddings, same, 10, protocol="magface"), official(distances, same, 10))


def test_orthogonal_rows_lie_on_a_threshold() -> None:
    """Distances of exactly 2 meet numpy.arange's 2.0: the comparison is strict, as the official one."""
    embeddings = np.eye(4)[[0, 0, 0, 1] * 10]
    same = np.array([True, False] * 10)
    result = evaluate_pairs(embeddings, same)
    assert result.accuracy == 1.0
    assert result.thresholds.tolist() == [0.01] * 10
    assert result.fpr[200] == 0
    assert result.fpr[201] == 1


def test_zero_rows_and_one_sided_folds_are_harmless() -> None:
    embeddings, same = rows(40, seed=9)
    embeddings[3] = 0
    same[:4] = True  # fold 0 has no impostor pair
    same[4:8] = False
    result = evaluate_pairs(embeddings, same, 10)
    assert np.isfinite([result.accuracy, result.val, result.val_far, result.auc]).all()
    lonely = evaluate_pairs(embeddings, np.ones(40, bool), 10)
    assert lonely.accuracy > 0.9
    assert np.isnan(lonely.auc)
    assert lonely.tar_at_far == {}
    assert lonely.summary()["auc"] is None


def test_summary_begins_with_accuracy() -> None:
    summary = evaluate_pairs(*rows(100), fars=[0.1, 1e-3]).summary()
    assert next(iter(summary)) == "accuracy"
    assert list(summary["tar@far"]) == ["0.1", "0.001"]


@pytest.mark.parametrize(("pairs", "folds"), [(20, 10), (25, 10), (10, 10), (7, 2)])
def test_folds_are_scikit_learns(pairs: int, folds: int) -> None:
    bounds = fold_bounds(pairs, folds, uneven=True)
    for k, (_, test) in enumerate(KFold(folds).split(np.arange(pairs))):
        assert test.tolist() == list(range(bounds[k], bounds[k + 1]))


def test_bad_input_is_named() -> None:
    embeddings, same = rows(25)
    with pytest.raises(VerificationSetError, match="25 pairs do not divide into 10 equal folds"):
        evaluate_pairs(embeddings, same)
    with pytest.raises(VerificationSetError, match="3 pairs cannot make 10 folds"):
        evaluate_pairs(embeddings[:6], same[:3])
    with pytest.raises(VerificationSetError, match="0 folds"):
        evaluate_pairs(embeddings, same, 0)
    embeddings[7, 2] = np.nan
    with pytest.raises(DataError, match="1 of 50 embeddings hold NaN or infinity, the first is row 7"):
        evaluate_pairs(embeddings, same, 5)
    with pytest.raises(DataError, match="two rows a pair"):
        evaluate_pairs(embeddings[:10], same)
    with pytest.raises(DataError, match="scores are NaN, the first at pair 1"):
        evaluate_distances(np.array([1.0, np.nan]), np.array([1, 0]), 2)
    with pytest.raises(DataError, match="insightface and magface"):
        evaluate_pairs(rows(20)[0], rows(20)[1], protocol="other")  # type: ignore[arg-type]
