"""A headless Chromium, driven over a pipe by the DevTools protocol: pages, keys, downloads, pictures and PDF."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="NOT TESTED: what a browser does with the page. Install chromium (apt-get install chromium).",
)
NAMED_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27}


class Browser:
    """
    One page in a browser of its own profile; closing it and opening another with the same profile is what a user does.

    Args:
        profile: folder that keeps what the browser keeps.
        downloads: folder of what is saved.
        size: of the window in pixels.
    """

    def __init__(self, profile: Path, downloads: Path | None = None, size=(1300, 1000)):
        # the ends of the pipes must not be the numbers that the browser expects, so that they can be copied there
        pipes = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (*os.pipe(), *os.pipe())]
        read_by_browser, self._to, self._from, written_by_browser = pipes

        def connect():
            os.dup2(read_by_browser, 3)
            os.dup2(written_by_browser, 4)

        arguments = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            arguments, preexec_fn=connect, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_by_browser)
        os.close(written_by_browser)
        self._number, self._session, self._buffer, self.errors = 0, None, b"", []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Page.enable")
        self.send("Runtime.enable")
        self.send("Log.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )
        if downloads is not None:
            self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            session, self._session = self._session, None
            self.send("Browser.close")
            self._session = session
        self.process.wait(timeout=60)
        os.close(self._to)
        os.close(self._from)

    def send(self, method, **parameters):
        """Send a command and wait for its result; errors of the page on the way go into ``errors``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], max(0, end - time.monotonic()))[0], "the browser says nothing"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(message)
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(message["params"]["exceptionDetails"])
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"])
        return message

    def open(self, path: Path):
        """Open a file and wait until it is there."""
        self.send("Page.navigate", url=Path(path).as_uri())
        # under load a page that has begun can be told complete while nothing of it is there
        shown = "document.readyState === 'complete' && document.body?.children.length > 0"
        self.wait(f"location.href !== 'about:blank' && {shown}")

    def run(self, script):
        """The value of a piece of script."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"it does not come true: {condition}"
            time.sleep(0.05)

    def wait_for_file(self, path, seconds=30):
        """Wait for a download."""
        end = time.monotonic() + seconds
        while not Path(path).is_file():
            assert time.monotonic() < end, f"{path} is not saved"
            time.sleep(0.05)

    def press(self, *keys):
        """Press keys, each as a user does: letters, or names such as ArrowLeft."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            code = {"windowsVirtualKeyCode": NAMED_KEYS[key]} if key in NAMED_KEYS else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def choose_files(self, selector, paths):
        """Choose files in a field for files."""
        document = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def picture(self, path: Path, whole=False):
        """Save a picture of what is shown, or of the whole page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path):
        """Print to PDF, on paper of the page's own size."""
        found = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        Path(path).write_bytes(base64.b64decode(found["data"]))
