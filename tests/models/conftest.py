"""What tests of tiny language models share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_thread(_deterministic: None) -> None:
    """Two threads would wait for each other longer than the products of a tiny model take."""
    torch.set_num_threads(1)
