"""State of a training in JSON and safetensors: it comes back as it was, and what these cannot hold is refused."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supersam_hf.training.saving import random_state, set_random_state
from supersam_hf.training.state import read_state, write_state


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "half": base.half()}, 7: {"view": base[2:4], "empty": base[:0]}},
        "groups": [{"lr": 1e-5, "betas": (0.9, 0.999), "fused": True, "name": None, "params": [0, 7]}],
        "tied": [base, base],
        "a": {"b": torch.tensor(1)},
        "a.b": torch.tensor(2),
        "limits": (float("inf"), -0.0, 2**70),
    }
    write_state(tmp_path, "some", state)
    back = read_state(tmp_path, "some")
    torch.testing.assert_close(back.pop("state"), state.pop("state"), rtol=0, atol=0)
    torch.testing.assert_close(back.pop("tied"), state.pop("tied"), rtol=0, atol=0)
    assert (back.pop("a")["b"].item(), back.pop("a.b").item()) == (1, 2)
    assert back == {key: state[key] for key in ("groups", "limits")}


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", np.zeros(2), {(1, 2): 3}])
def test_other_state_is_refused_where_it_is_written(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`a.1` of a checkpoint's state"):
        write_state(tmp_path, "some", {"a": [0, value]})


def test_random_state_comes_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return random.random(), np.random.normal(), np.random.random(), torch.rand(()).item()

    np.random.normal()  # of a pair; the other is kept
    write_state(tmp_path, "random", random_state(torch.device("cpu")))
    drawn = draw()
    set_random_state(read_state(tmp_path, "random"), torch.device("cpu"))
    assert draw() == drawn
