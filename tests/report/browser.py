"""Chromium without a window: what a page holds once it is open, and what it complained about."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

PROBE = """
<script>
window.addEventListener("load", () => {
  const absent = [...document.images].filter(i => !i.complete || !i.naturalWidth);
  const broken = absent.map(i => i.alt);
  const cells = [...document.querySelectorAll("figure canvas.cells")];
  cells.forEach(canvas => canvas.show());
  const lost = [...document.querySelectorAll('a[href^="#"]')]
    .filter(a => !document.getElementById(a.getAttribute("href").slice(1))).map(a => a.href);
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const cut = [...document.querySelectorAll(".scroll")].filter(s => s.scrollWidth > s.clientWidth)
    .map(s => s.closest("section").querySelector("h2").id);
  const hidden = [...document.querySelectorAll("section h2")].filter(h => !h.offsetHeight)
    .map(h => h.id);
  setTimeout(() => {
  const lacking = cells.filter(c => c.dataset.broken);
  broken.push(...lacking.map(c => c.closest("figure").dataset.name));
  const found = {images: document.images.length, cells: cells.length,
    broken, lost, wide, hidden, cut, links: document.querySelectorAll("nav a").length};
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
  }, 2000);
});
</script>
"""


def opened(page: Path, folder: Path, width: int = 1366) -> tuple[dict, str]:
    """(what the probe found, chromium's console) of a page in a window of a laptop's width.

    The probe is added to a copy of the page: images that did not load, links that lead nowhere,
    pixels by which the page is wider than its window, sections whose table does not fit.
    """
    copy = folder / "probed.html"
    copy.write_text(page.read_text().replace("</head>", PROBE + "</head>"))
    command = [
        *(shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
        *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
        *(f"--window-size={width},768", "--virtual-time-budget=10000", "--dump-dom"),
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout).group(1)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(probe), console


def clicked(page: Path, folder: Path, script: str, width: int = 1366) -> tuple[list, str]:
    """(what a script wrote into the title as JSON, chromium's console) after the page has loaded.

    The page stands in a frame of the width, as chromium opens no window under 500 pixels; the
    copy with the script lies beside the page, where its images are.
    """
    copy, frame = page.with_name("clicked.html"), page.with_name("frame.html")
    start = f'<script>window.addEventListener("load", () => {{ {script} }});</script>'
    copy.write_text(page.read_text("utf-8").replace("</body>", start + "</body>"), "utf-8")
    frame.write_text(
        f'<iframe src="clicked.html" style="width: {width}px; height: 800px; border: 0"></iframe>'
        "<script>setInterval(() => { document.body.dataset.log = "
        "frames[0].document.title; }, 100);</script>"
    )
    command = [
        *(shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
        *("--allow-file-access-from-files", "--enable-logging=stderr"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 40},900"),
        *("--virtual-time-budget=10000", "--dump-dom", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    log = re.search(r'data-log="(.*?)"', done.stdout)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    assert log, done.stdout[-2000:] + console
    return json.loads(html.unescape(log[1])), console
