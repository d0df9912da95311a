"""One tiny data set for all tests of the built-in data."""

from pathlib import Path

import pytest

from vlcompress.data.scenes.write import make_scenes


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "tiny", size="tiny", pretrain=10, processes=1)
