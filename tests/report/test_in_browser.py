"""The pages as a browser lays them out: drawn, and no wider than the window."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from fpnas.report.comparison import render_comparison
from fpnas.report.html import render_report

from .test_comparison import baseline, searched
from .test_html import full

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
# Its own connections are switched off, and it runs as root in containers.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)
# Chromium's window is at least 500 pixels wide; a phone is played by a frame.
PHONE, DESKTOP, HEIGHT = 390, 1280, 2000
MEASURE = """
<script>
window.onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const broken = [...page.images].filter(image => !image.naturalWidth).length;
  document.title = [page.documentElement.scrollWidth, page.images.length, broken].join(" ");
};
</script>
"""


def browse(folder, page, *options):
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options]
    command += ["--allow-file-access-from-files", f"--window-size={DESKTOP},{HEIGHT}"]
    done = subprocess.run(
        [*command, (folder / page).as_uri()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PAGES = {
    "report": lambda: render_report(full()),
    "comparison": lambda: render_comparison([baseline(), searched()], {"MLflow": "http://h/#/"}),
}


@pytest.fixture(scope="module", params=PAGES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "page.html").write_text(PAGES[request.param](), encoding="utf-8")
    return folder


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_page_is_no_wider_than_its_window(folder, width):
    frame = f'<iframe src="page.html" style="width:{width}px;height:{HEIGHT}px;border:0"></iframe>'
    (folder / "frame.html").write_text(f"<!doctype html><title></title>{frame}{MEASURE}")
    shown = browse(folder, "frame.html", "--dump-dom")
    title = shown.partition("<title>")[2].partition("</title>")[0]
    found, num_images, num_broken = map(int, title.split())
    assert found <= width
    assert num_images > 0
    assert num_broken == 0


def test_a_page_is_drawn(folder):
    browse(folder, "page.html", f"--screenshot={folder / 'page.png'}")
    pixels = np.asarray(Image.open(folder / "page.png").convert("L"))
    assert pixels.shape == (HEIGHT, DESKTOP)
    assert (pixels < 100).mean() > 0.005  # letters and lines
    rows = (pixels < 100).any(axis=1)
    assert rows[: HEIGHT // 2].mean() > 0.2  # from the top on, and not one block somewhere
