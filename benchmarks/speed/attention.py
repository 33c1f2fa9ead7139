"""PyTorch's fused attention against plain matrix products on CPU: the forward and backward pass of one layer.

    python -m benchmarks.speed.attention        (half a minute, one thread)

Prints CPU milliseconds (best of five) by sequence length at about the same number of tokens. It is why `finetune` takes
plain attention for short rows in bf16 on CPU, and fused attention everywhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

SHAPES = ((64, 4, 38, 32), (16, 4, 128, 32), (8, 4, 256, 32), (4, 4, 512, 32), (2, 4, 1024, 32), (8, 14, 128, 64))


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention as Transformers' "eager" computes it: (B, H, T, D) three times, mask (1, 1, T, T) of 0 and -inf."""
    weights = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5 + mask
    return F.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def milliseconds(attend: Callable[[], torch.Tensor]) -> tuple[float, float]:
    forward, backward = [], []
    for _ in range(5):
        start = time.process_time()
        out = attend()
        middle = time.process_time()
        out.sum().backward()
        forward.append(middle - start)
        backward.append(time.process_time() - middle)
    return 1000 * min(forward), 1000 * min(backward)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'dtype':10}{'B, H, T, D':>18}{'plain forward':>16}{'backward':>10}{'fused forward':>16}{'backward':>10}")
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
            mask = torch.full((shape[2], shape[2]), float("-inf"), dtype=dtype).triu(1)[None, None]
            a = milliseconds(lambda: plain(q, k, v, mask))  # noqa: B023
            b = milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))  # noqa: B023
            name = str(dtype).removeprefix("torch.")
            print(
                f"{name:10}{', '.join(map(str, shape)):>18}{a[0]:16.1f}{a[1]:10.1f}{b[0]:16.1f}{b[1]:10.1f}", flush=True
            )


if __name__ == "__main__":
    main()
