"""Many small products: a second thread would only wait."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    torch.set_num_threads(1)
