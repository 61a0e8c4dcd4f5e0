"""What the tests of imports share: one thread for models this small, and folders that are opened and exported once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.importing.bundles import Bundle, bundle_of


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on two threads, which wait for each other."""
    known = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(known)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Path]], Bundle]:
    """`bundle(name, make)`: the fp32 bundle of the folder `make` writes; made once for each name."""
    made: dict[str, Bundle] = {}

    def of(name: str, make: Callable[[Path], Path]) -> Bundle:
        if name not in made:
            made[name] = bundle_of(make, tmp_path_factory.mktemp("bundle"))
        return made[name]

    return of
