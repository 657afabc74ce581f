import pytest

from .cases import SPECS, Case


@pytest.fixture(params=SPECS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)
