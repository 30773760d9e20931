"""The wheel, installed outside the checkout: first as a vehicle's owner would, then as a server."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL_S = 900  # a first download of ONNX Runtime and pyarrow over a slow line

pytestmark = pytest.mark.timeout(2 * INSTALL_S)


def run(*command: str | Path, cwd: Path, ok: int = 0, within_s: float = 120) -> str:
    """Standard output and error of a command that must end with `ok`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=within_s,
        cwd=cwd,
        env=environment,
        check=False,
    )
    assert done.returncode == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT, cwd=out, within_s=INSTALL_S
    )
    return next(out.glob("*.whl"))


def test_what_is_not_python_is_inside_and_what_is_not_ours_is_not(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("workunits/py.typed", "tesla_at_home/py.typed", "server/py.typed"):
        assert wanted in names
    for folder in ("http/templates", "http/static", "storage/migrations"):
        assert any(name.startswith(f"server/{folder}/") for name in names), folder
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"workunits", "tesla_at_home", "server"}


def test_installed_elsewhere_both_sides_run(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    pip = (bin_ / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, wheel, cwd=tmp_path, within_s=INSTALL_S)

    assert "join" in run(bin_ / "tesla-at-home", "--help", cwd=tmp_path)
    told = run(bin_ / "tesla-at-home-server", "--dir", "p", "init", cwd=tmp_path, ok=1)
    assert "tesla-at-home[server]" in told
    assert "Traceback" not in told
    installed = run(bin_ / "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    for stranger in ("pyarrow", "litestar", "sqlalchemy", "scikit-learn"):
        assert f"{stranger}==" not in installed

    run(*pip, f"{wheel}[server]", cwd=tmp_path, within_s=INSTALL_S)
    project = tmp_path / "p"
    run(bin_ / "tesla-at-home-server", "--dir", project, "init", cwd=tmp_path)
    with subprocess.Popen(
        [bin_ / "tesla-at-home-server", "--dir", project, "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    ) as server:
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if "listening on" in line).split()[-1]
            page = "import sys, requests; print(requests.get(sys.argv[1], timeout=30).status_code)"
            for path in ("/leaderboard", "/metadata/1.root.json", "/healthz"):
                said = run(bin_ / "python", "-c", page, url + path, cwd=tmp_path)
                assert said.strip() == "200", path
        finally:
            server.terminate()
            assert server.wait(timeout=60) == 0
