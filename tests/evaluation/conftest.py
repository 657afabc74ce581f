from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from msd_ray.data import DataConfig, DataSet, load_data
from msd_ray.evaluation import FeatureNet, load_features
from msd_ray.storage import Store


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load_data(DataConfig())


@pytest.fixture(scope="session")
def toy() -> DataSet:
    return load_data(DataConfig("toy2d", options={"classes": 4, "samples": 800}))


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def digits_features(digits: DataSet, digits_cache: Path) -> FeatureNet:
    """Trained once per session, into `digits_cache`."""
    return load_features("auto", digits, Store(str(digits_cache)))
