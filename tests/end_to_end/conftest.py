"""What the tests of whole commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of each file's own, so that nothing is prepared before; training's data may be."""
    if request.path.stem in ("test_train", "test_bad_inputs", "test_two_at_once"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
