"""Regularisation of the scores: adaptive one-hot loss, L1, budget (OFB, Eq. 5 to 7)."""

import math

import torch


OMEGA_MARGIN = 1e-4


def entropy(p: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """H(p) = -sum p log p over the live cells: 0 for one-hot (Eq. 5, first term). In float32 or wider.

    Args:
        p (`torch.Tensor` (..., cells)): Of one submodule, or of several, padded with dead cells.
        live (`torch.Tensor`, bool): As `p`.

    Returns:
        `torch.Tensor` (...).
    """
    # 1 log 1 = 0; selecting the live cells instead would make a GPU wait to learn their number
    p = p.where(live, 1.0)
    # not xlogy, whose gradient at 0 is NaN: a live p may underflow
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(-1)


def variance_penalty(p: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
    """Psi(p) = tan(pi/2 - pi omega), with omega the variance of p over that of a one-hot vector (Eq. 5, second term).

    Psi goes to plus infinity for uniform p and to minus infinity for one-hot p. Outside [1e-4, 1 - 1e-4] it goes on as
    a straight line, value and slope continuous, so that it is finite everywhere and its gradient never vanishes.
    Of a submodule with one live cell it says nothing: 0, without gradient.

    Args:
        p (`torch.Tensor` (..., cells)): Of one submodule, or of several, padded with dead cells.
        live (`torch.Tensor`, bool): As `p`.

    Returns:
        `torch.Tensor` (...).
    """
    n = live.sum(-1, keepdim=True).clamp(min=2).to(p.dtype)  # one cell would divide by zero
    # sigma / sigma_t = [sum (p - 1/n)^2 / n] / [(n - 1) / n^2]
    omega = (p - 1 / n).square().where(live, 0.0).sum(-1) / (1 - 1 / n.squeeze(-1))
    inner = omega.clamp(OMEGA_MARGIN, 1 - OMEGA_MARGIN)
    angle = math.pi * inner
    slope = -math.pi / angle.detach().sin().square()
    psi = angle.cos() / angle.sin() + slope * (omega - inner)  # tan(pi/2 - x) = cos x / sin x
    return psi.where(live.sum(-1) > 1, 0.0)


def l1(importance: torch.Tensor) -> torch.Tensor:
    """L_S = ||S||_1 of every submodule, (...) for (..., groups, units); S is positive."""
    return importance.sum((-2, -1))


def budget_penalty(cost: torch.Tensor, target: float, squared: bool = False) -> torch.Tensor:
    """Distance of g(V) from the budget, both as fractions of the full model (Eq. 6, second term).

    Args:
        cost (`torch.Tensor`): g(V), a scalar.
        target (`float`): tau.
        squared (`bool`): The released code's square instead of the paper's distance.
    """
    distance = cost - target
    return distance.square() if squared else distance.abs()


__all__ = ["budget_penalty", "entropy", "l1", "variance_penalty"]
