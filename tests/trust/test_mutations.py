"""The removals are tried by `python -m tests.trust.mutations`; here only that they still can be."""

import shutil
from pathlib import Path

import pytest

from tests.trust.mutations import CHECKOUT, MUTATIONS, Mutation, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.removed)
def test_what_is_to_be_removed_is_there(tmp_path: Path, mutation: Mutation) -> None:
    copy = tmp_path / mutation.file
    copy.parent.mkdir(parents=True)
    shutil.copy2(CHECKOUT / mutation.file, copy)
    assert mutated(mutation, tmp_path) is None
    assert copy.read_text() != (CHECKOUT / mutation.file).read_text()


def test_what_is_not_there_any_more_is_told(tmp_path: Path) -> None:
    (tmp_path / "changed.py").write_text("pass\n")
    gone = Mutation("a line", "changed.py", (("the line\n", ""),), "tests/test_x.py::test_x")
    assert mutated(gone, tmp_path) == "changed.py has 0 times, not once:\nthe line\n"


def test_the_test_that_goes_red_is_there() -> None:
    for each in MUTATIONS:
        file, _, _ = each.test.partition("::")
        assert f"def {each.test_name}(" in (CHECKOUT / file).read_text(), each.test
