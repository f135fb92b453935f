"""The bi-mask equations of OFB written out with numbers and lists: what the tensors are tested against.

A submodule is `groups` of `units` (heads of channels; one group of units elsewhere). Its architecture parameters are
nested lists `[option for the groups][option for the units]`, its scores `[group][unit]`.
"""

import math


Matrix = list[list[float]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def importance(score: Matrix) -> Matrix:
    """S, between 0 and 1 (section 3.2)."""
    return [[sigmoid(x) for x in row] for row in score]


def probabilities(alpha: Matrix, live: list[list[bool]]) -> Matrix:
    """p_k = exp(alpha_k) / sum exp(alpha) over the cells that live; a dead cell has none."""
    total = sum(math.exp(a) for row, alive in zip(alpha, live) for a, keep in zip(row, alive) if keep)
    return [[math.exp(a) / total if keep else 0.0 for a, keep in zip(row, alive)] for row, alive in zip(alpha, live)]


def places(values: list[float]) -> list[int]:
    """How many others come before each: those that are greater, and of equal ones those with a lower index."""
    return [
        sum(other > value or (other == value and j < i) for j, other in enumerate(values))
        for i, value in enumerate(values)
    ]


def eq_4(p: list[float], place: int, step: int) -> float:
    """V by Eq. 4 to the letter, for options `step`, 2 `step`, ...: the sum of p_k from k = floor(place / step) on."""
    return sum(p[k] for k in range(place // step, len(p)))


def sparsity(score: Matrix, p: Matrix, group_sizes: list[int], unit_sizes: list[int]) -> Matrix:
    """V: the probability of all cells that hold the unit, for the unit's place in order of importance.

    Cell (i, j) holds the `group_sizes[i]` groups of highest summed importance, and in each of them the `unit_sizes[j]`
    units of highest importance.
    """
    kept = importance(score)
    group_places = places([math.fsum(row) for row in kept])
    unit_places = [places(row) for row in kept]
    return [
        [
            sum(
                p[i][j]
                for i, groups in enumerate(group_sizes)
                for j, units in enumerate(unit_sizes)
                if group_places[g] < groups and unit_places[g][u] < units
            )
            for u in range(len(score[g]))
        ]
        for g in range(len(score))
    ]


def bimask(s: Matrix, v: Matrix, lam: float) -> Matrix:
    """Eq. 3: m = lambda S + (1 - lambda) V."""
    return [[lam * a + (1 - lam) * b for a, b in zip(s_row, v_row)] for s_row, v_row in zip(s, v)]


def entropy(p: list[float]) -> float:
    """H(p) = - sum p log p, of the live cells; p log p is 0 at 0."""
    return -sum(x * math.log(x) for x in p if x > 0)


def normalised_variance(p: list[float]) -> float:
    """omega = sigma / sigma_t, with sigma_t = (n - 1) / n² the variance of a one-hot vector."""
    n = len(p)
    mean = sum(p) / n
    sigma = sum((x - mean) ** 2 for x in p) / n
    return sigma / ((n - 1) / n**2)


def psi_of_omega(omega: float, margin: float = 1e-4) -> float:
    """tan(pi/2 - pi omega); outside [margin, 1 - margin] the tangent line at that end."""
    if margin <= omega <= 1 - margin:
        return math.tan(math.pi / 2 - math.pi * omega)
    end = margin if omega < margin else 1 - margin
    # d/d omega of tan(pi/2 - pi omega) = -pi / cos²(pi/2 - pi omega)
    slope = -math.pi / math.cos(math.pi / 2 - math.pi * end) ** 2
    return math.tan(math.pi / 2 - math.pi * end) + slope * (omega - end)


def psi(p: list[float]) -> float:
    """Psi(p) of Eq. 5, of the live cells."""
    return psi_of_omega(normalised_variance(p))


def l1(s: Matrix) -> float:
    """L_S = ||S||_1 (section 3.3)."""
    return sum(abs(x) for row in s for x in row)


def budget(g: float, tau: float, squared: bool) -> float:
    """Second term of Eq. 6 for a number: ||g(V) - tau||; the released code squares it. Both of the full model."""
    return (g - tau) ** 2 if squared else abs(g - tau)


def dropped(p: Matrix, live: list[list[bool]], eta: float) -> list[list[bool]]:
    """Algorithm 1, line 11 to 13: live cells with p <= eta / (number of live cells)."""
    number = sum(keep for row in live for keep in row)
    return [[keep and x <= eta / number for x, keep in zip(row, alive)] for row, alive in zip(p, live)]


def soft_macs(
    embedding: float,
    attention: list[float],
    mlp: list[float],
    *,
    hidden_size: int,
    heads: list[int],
    num_patches: int = 196,
    patch_pixels: int = 3 * 16 * 16,
    num_labels: int = 1000,
) -> float:
    """g(V) as the released code counts it, of the sums of V of every submodule: the embedding, and of each layer the
    attention (over heads and channels) and the MLP. The class token is not counted."""
    n, e = num_patches, embedding
    total = n * e * patch_pixels + e * num_labels
    for s, m, h in zip(attention, mlp, heads):
        total += n * e * 3 * s + 3 * n * s  # q, k, v and their biases
        total += n * n * s + h * n * n  # attention logits and their scaling
        total += 5 * h * n * n  # softmax
        total += n * n * s  # weighted values
        total += n * s * e + n * e  # output projection and its bias
        total += n * (2 * e * m + e + m)  # MLP and its biases
        total += 2 * hidden_size * n  # two layer norms
    return total
