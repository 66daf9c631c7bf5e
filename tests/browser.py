"""A headless Chromium over the DevTools protocol, through a pipe: nothing but the standard library.

A message is JSON ended by a zero byte, to file descriptor 3 of the browser and from its 4. The page
is measured by a script that the protocol runs, which a page's own policy does not stop.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 60.0

# Rectangles of every visible line of text and every drawing; those that lie over each other, leave
# the page at a side, or are too small to read. A drawing may hold text only of its own.
MEASURE = """(() => {
  const boxes = [], overlaps = [], outside = [], small = [];
  const clipped = (r, e) => { // to the nearest box that cuts its text off
    for (let c = e; c && getComputedStyle(c).display !== 'block'; c = c.parentElement)
      if (getComputedStyle(c).overflowX === 'hidden') {
        const b = c.getBoundingClientRect();
        return {left: r.left, top: r.top, bottom: r.bottom, right: Math.min(r.right, b.right)};
      }
    return r; };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, owner = node.parentElement;
    if (!node.data.trim() || ['STYLE', 'TITLE', 'title'].includes(owner.tagName)) continue;
    if (!owner.checkVisibility()) continue; // of a closed <details>, say
    const range = document.createRange();
    range.selectNodeContents(node);
    const svg = owner.closest('svg');
    let size = parseFloat(getComputedStyle(owner).fontSize);
    if (svg) size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < 9) small.push(node.data.trim() + ' ' + size.toFixed(1));
    for (const r of range.getClientRects())
      if (r.width > 1) boxes.push([clipped(r, owner), node.data.trim(), svg || owner, true, node]);
  }
  for (const e of document.querySelectorAll('svg, img'))
    boxes.push([e.getBoundingClientRect(), e.tagName + ' ' + (e.alt || e.ariaLabel), e, false]);
  const width = document.documentElement.clientWidth;
  for (let i = 0; i < boxes.length; i++) {
    const [a, name, inside, text, node] = boxes[i];
    if (a.left < -1 || a.right > width + 1) outside.push(name);
    for (let j = i + 1; j < boxes.length; j++) {
      const [b, other, within, also, same] = boxes[j];
      if (node && node === same) continue; // lines of one text
      if (text !== also && (inside === within || inside.contains(within))) continue;
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      // A line box is taller than its letters: neighbours may share its leading.
      if (x > 1.5 && y > (text && also ? 3.5 : 1.5)) overlaps.push(name + ' | ' + other);
    }
  }
  return {overlaps, outside, small, texts: boxes.filter(b => b[3]).length,
    drawings: boxes.filter(b => !b[3]).length, scroll: document.documentElement.scrollWidth,
    width, broken: [...document.images].filter(i => !i.naturalWidth).length};
})()"""


def find() -> str | None:
    """The browser's path, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """``with Browser(path) as browser:`` one tab; `requests` are what it asked for."""

    def __init__(self, path: str) -> None:
        self.requests: list[str] = []
        self._number, self._buffer = 0, b""
        self._profile = tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True)
        read, their_write = os.pipe()
        their_read, write = os.pipe()
        flags = " ".join(FLAGS)
        command = (
            f'exec "$0" {flags} "--user-data-dir=$1" about:blank 3<&{their_read} 4>&{their_write}'
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command, path, self._profile.name],
            pass_fds=(their_read, their_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile.name},
        )
        os.close(their_read)
        os.close(their_write)
        self._read, self._write = read, write
        self._session: str | None = None
        pages = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = pages[0]["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], deadline - time.monotonic())
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("the browser says nothing, or ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def open(self, page: Path, width: int, dark: bool = False) -> dict[str, Any]:
        """Show a page at a width; what `MEASURE` finds on it."""
        phone = width < 600
        shape = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": phone}
        self("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=page.absolute().as_uri())
        while self.evaluate("document.readyState") != "complete":
            time.sleep(0.02)
        found: dict[str, Any] = self.evaluate(MEASURE)
        return found

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))
