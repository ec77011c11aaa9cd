from __future__ import annotations

import pytest
from click.testing import CliRunner

from bench.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--protocol", "h2"], "'h2' is not measured; measured: http/1.1"),
        (["--peers", "envoy,caddy"], "unknown: caddy; there are baremesh, envoy"),
        (["--connections", "0"], "give numbers from 1 to 512"),
        (["--connections", "8,x"], "give numbers from 1 to 512"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(arguments: list[str], said: str) -> None:
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert said in answer.output
