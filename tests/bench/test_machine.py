from __future__ import annotations

import pytest

from bench.machine import is_optimized, processor


@pytest.mark.parametrize(
    ("arguments", "prefix", "optimized"),
    [
        ("'--enable-shared' '--prefix=/usr' '--without-ensurepip'", "/usr", True),
        ("'--prefix=/opt/python' '--enable-optimizations'", "/opt/python", True),
        ("'--prefix=/home/u/.pyenv/versions/3.11.7' '--enable-shared'", "/home/u/x", False),
        ("", "/usr/local", False),
    ],
)
def test_which_interpreter_is_built_with_profiles(
    arguments: str, prefix: str, optimized: bool
) -> None:
    assert is_optimized(arguments, prefix) is optimized


def test_processor() -> None:
    assert processor("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
