"""Real servers on loopback, started and stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import requests

STUB = Path(__file__).parent / "torchvision_stub"
START_SECONDS = int(os.environ.get("E2E_START_SECONDS", "300"))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """
    A program that answers HTTP; a context manager that stops it, and what it started, at the end.

    Args:
        command: the program and its arguments.
        ready: the URL that answers when it has started.
        log: where its output goes.
        environment: further variables.
    """

    def __init__(self, command: list[str], ready: str, log: Path, environment: dict[str, str] | None = None) -> None:
        self.command, self.ready, self.log = command, ready, log
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Server:
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                self.command, stdout=stream, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if requests.get(self.ready, timeout=10).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.5)
        self.__exit__()
        raise RuntimeError(f"{' '.join(self.command)} did not answer:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *_: object) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, sign)
                try:
                    self.process.wait(20)
                except subprocess.TimeoutExpired:
                    continue


def monai_label(python: Path, app: Path, studies: str, conf: dict[str, str], folder: Path, port: int) -> Server:
    """
    A MONAI Label server.

    Args:
        python: of the environment with monailabel.
        app: the app's folder.
        studies: a folder of scans, or the URL of a DICOMweb server.
        conf: the app's options.
        folder: for the log and the caches.
        port: to listen on.
    """
    command = [str(python), "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for key, value in conf.items():
        command += ["--conf", key, value]
    environment = {
        "PYTHONPATH": str(STUB),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "MR"}),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    return Server(command, f"http://127.0.0.1:{port}/info/", folder / "monailabel.log", environment)


def orthanc(folder: Path, port: int) -> Server:
    """Orthanc with DICOMweb; it answers to loopback alone, and has no DICOM port."""
    program = shutil.which("Orthanc")
    if program is None:
        raise RuntimeError("Orthanc is not installed; on Debian, apt-get install orthanc orthanc-dicomweb.")
    content = {
        "Name": "e2e",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "Host": "127.0.0.1", "Ssl": False},
    }
    (folder / "orthanc.json").write_text(json.dumps(content))
    ready = f"http://127.0.0.1:{port}/dicom-web/studies"
    return Server([program, str(folder / "orthanc.json")], ready, folder / "orthanc.log")
