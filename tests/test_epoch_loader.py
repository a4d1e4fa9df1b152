"""Epochs that workers begin ahead are those that would have come, from the same random numbers."""

from __future__ import annotations

import pytest
import torch

from utils.dataloaders import SeededSampler
from utils.training import epoch_loader
from utils.training.epoch_loader import EpochLoader


class Numbers(torch.utils.data.Dataset):
    """Item (index, seed) -> index, seed and whether the data set was changed when it was made."""

    def __init__(self) -> None:
        self.version, self.changed = 0, torch.zeros((), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int, bool]:
        return (*item, bool(self.changed))

    def change(self) -> None:
        self.changed.fill_(True)
        self.version += 1


def loader_of(dataset: Numbers, workers: int = 1) -> EpochLoader:
    sampler = SeededSampler(10, torch.Generator().manual_seed(3))
    loader = torch.utils.data.DataLoader(
        dataset, 3, sampler=sampler, num_workers=workers, persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return EpochLoader(loader)


def rows(loader: EpochLoader) -> list[list[int]]:
    return [[int(value) for part in batch for value in part] for batch in loader]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_epochs_come_whether_begun_ahead_or_not(workers):
    plain, ahead = loader_of(Numbers(), workers), loader_of(Numbers(), workers)
    for _ in range(3):
        assert torch.equal(ahead.generator_state(), plain.generator_state())  # what a checkpoint keeps
        assert rows(ahead) == rows(plain)
        ahead.begin_next()
        ahead.begin_next()
    assert len(ahead) == 4 and ahead.batch_size == 3 and ahead.dataset is ahead.loader.dataset


def test_a_changed_data_set_is_read_anew():
    plain, ahead = loader_of(Numbers()), loader_of(Numbers())
    assert rows(ahead) == rows(plain)
    ahead.begin_next()
    for loader in (plain, ahead):
        loader.dataset.change()
    assert rows(ahead) == rows(plain)
    assert torch.equal(ahead.generator_state(), plain.generator_state())


def test_a_run_resumed_from_the_state_goes_on_alike():
    first, second = loader_of(Numbers()), loader_of(Numbers())
    rows(first)
    first.begin_next()
    second.set_generator_state(first.generator_state())
    assert rows(second) == rows(first)


def test_near_its_end_an_epoch_says_so(monkeypatch):
    monkeypatch.setattr(epoch_loader, "LAST_BATCHES", 2)
    loader, said, passed = loader_of(Numbers()), [], []
    loader.near_end = lambda: said.append(len(passed))
    for batch in loader:
        passed.append(batch)
    assert said == [2] and len(passed) == 4
    monkeypatch.setattr(epoch_loader, "LAST_BATCHES", 10)
    rows(loader)
    assert len(said) == 2
