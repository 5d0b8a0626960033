"""The attention that transformers share, against its formula in float64."""

from __future__ import annotations

import pytest
import torch

from facex.models.common import attention

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_values_and_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 3, 7, 8, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(3))
    wanted = ((q.double() @ k.double().mT * 0.3).softmax(-1)) @ v.double()
    found = attention(q, k, v, 0.3)
    assert found.dtype == dtype
    upstream = torch.randn(wanted.shape, dtype=torch.float64).to(dtype)
    mine = torch.autograd.grad(found, (q, k, v), upstream)
    theirs = torch.autograd.grad(wanted, (q, k, v), upstream.double())
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype], "check_dtype": False}
    for one, other in zip((found, *mine), (wanted, *theirs), strict=True):
        torch.testing.assert_close(one.double(), other.double(), **near)
