from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from gateway.cli import main as gateway
from meshd.cli import CONFIG, main
from meshkit import __version__


def test_version() -> None:
    assert CliRunner().invoke(main, ["version"]).output == f"meshd {__version__}\n"
    assert CliRunner().invoke(gateway, ["version"]).output == f"mesh-gateway {__version__}\n"


def test_check_says_what_is_wrong_with_status_3(tmp_path: Path) -> None:
    file = tmp_path / "meshd.yaml"
    file.write_text("adress: 10.0.0.5\n")
    result = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert result.exit_code == CONFIG
    assert f"{file}:1:1" in result.stderr
    missing = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "none.yaml")])
    assert missing.exit_code == CONFIG
    assert "No such file" in missing.stderr and "--config" in missing.stderr


def test_check_of_a_good_configuration_counts_the_services(tmp_path: Path) -> None:
    file = tmp_path / "meshd.yaml"
    file.write_text(
        "address: 10.0.0.5\ncontrolPlane: {address: ca:15012}\nservicesDir: services.d\n"
    )
    result = CliRunner().invoke(main, ["check", "--config", str(file)])
    assert (result.exit_code, result.output) == (
        0,
        f"{file}: valid; 0 local services in {tmp_path}/services.d\n",
    )
