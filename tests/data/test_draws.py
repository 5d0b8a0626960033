"""Draws: good random numbers, and the same ones however a global batch is cut."""

import numpy as np
import pytest
import torch

from facex.data.draws import Draws, mix64, mix64_tensor


def all_draws(seed: int = 7, batch: int = 3, n: int = 512) -> Draws:
    return Draws(seed, batch, torch.arange(n))


def test_mixer_is_splitmix64():
    # the published first outputs of splitmix64 seeded with 1234567 (Vigna's reference implementation)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    golden = 0x9E3779B97F4A7C15
    state = [(1234567 + (k + 1) * golden) % 2**64 for k in range(5)]
    assert [mix64(s) for s in state] == expected
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in state])
    assert [v % 2**64 for v in mix64_tensor(signed).tolist()] == expected


@pytest.mark.parametrize("cut", [1, 2, 8, 64])
def test_any_cut_gives_the_same_numbers(cut):
    whole = all_draws()
    for kind in ("uniform", "normal", "bits"):
        full = getattr(whole, kind)("occlusion", 3, 5)
        parts = [getattr(Draws(7, 3, p), kind)("occlusion", 3, 5) for p in torch.arange(512).chunk(512 // cut)]
        assert torch.equal(full, torch.cat(parts))


def test_order_of_rows_does_not_matter():
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    assert torch.equal(all_draws().uniform("a")[order], Draws(7, 3, order).uniform("a"))


def test_shapes_ranges_and_types():
    u = all_draws().uniform("a", 4)
    assert u.shape == (512, 4)
    assert u.dtype == torch.float32
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert all_draws().uniform("a").shape == (512,)
    i = all_draws().integers("b", -2, 3)
    assert sorted(set(i.tolist())) == [-2, -1, 0, 1, 2]
    assert Draws(1, 2, torch.arange(0)).normal("a", 3).shape == (0, 3)


def kolmogorov_smirnov(values: np.ndarray, cdf=lambda x: x) -> float:
    """sqrt(n) times the greatest distance of the empirical distribution from `cdf`."""
    x = cdf(np.sort(values.ravel().astype(np.float64)))
    n = len(x)
    grid = np.arange(n)
    return float(np.sqrt(n) * max((x - grid / n).max(), ((grid + 1) / n - x).max()))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())


def test_uniform_and_normal_distributions():
    u = torch.stack([Draws(0, b, torch.arange(256)).uniform("q", 16) for b in range(32)]).numpy()
    assert abs(u.mean() - 0.5) < 0.004  # 5 sigma of 131072 draws
    assert abs(u.var() - 1 / 12) < 0.002
    assert kolmogorov_smirnov(u) < 1.95  # p = 0.001
    for axis_slice in (u[:, 0, 0], u[0, :, 0], u[0, 0, :]):  # along batches, positions, elements alone
        assert kolmogorov_smirnov(axis_slice) < 1.95
    z = torch.stack([Draws(0, b, torch.arange(256)).normal("q", 16) for b in range(32)]).numpy()
    assert abs(z.mean()) < 0.014
    assert abs(z.std() - 1) < 0.01
    assert kolmogorov_smirnov(z, normal_cdf) < 1.95


def test_no_correlation_between_neighbours():
    def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
        return abs(float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]))

    n = 20000
    base = Draws(5, 9, torch.arange(n)).uniform("s", 2)
    limit = 5 / n**0.5
    assert correlation(base[:-1, 0], base[1:, 0]) < limit
    assert correlation(base[:, 0], base[:, 1]) < limit
    assert correlation(base, Draws(5, 10, torch.arange(n)).uniform("s", 2)) < limit
    assert correlation(base, Draws(6, 9, torch.arange(n)).uniform("s", 2)) < limit
    assert correlation(base, Draws(5, 9, torch.arange(n)).uniform("t", 2)) < limit
    assert correlation(base, Draws(5, 9, torch.arange(n)).scoped("x").uniform("s", 2)) < limit


def test_negative_and_large_seeds_are_accepted():
    values = {float(Draws(seed, 0, torch.tensor([0])).uniform("a")) for seed in (-1, 0, 1, 2**40, 2**63)}
    assert len(values) == 5
