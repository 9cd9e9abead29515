"""Commands of ``python -m``, each in a process of its own that was forked after the slow imports.

``import monai`` alone takes some five seconds, more than most of the commands themselves. The process begins as
``python -m MODULE`` would, with the folder in front of ``sys.path``, and ends as it would, with its hook for
exceptions, its exit functions and its status. What is tested about the start of Python itself uses ``subprocess``.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

IMPORTED = ("monai.bundle", "monai.handlers", "ignite.handlers", "skimage.measure", "pandas", "nibabel", "itk",
            "pydicom", "highdicom", "matplotlib.figure", "matplotlib.backends.backend_agg", "sklearn.metrics",
            "skimage.restoration", "skimage.metrics", "openpyxl", "fire", "jinja2", "torch._dynamo", "torch.onnx",
            "torch.utils.tensorboard")  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(IMPORTED))


def run_module(words, cwd, timeout=600, env=None):
    """Run ``python -m MODULE ARGUMENTS...``.

    Args:
        words: the module and its arguments.
        cwd: the folder to run it in.
        timeout: seconds.
        env: environment, in place of that of this process.

    Returns:
        What ``subprocess.run`` returns with ``capture_output`` and ``text``.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = start_module(words, cwd, *files, env)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in files)
        return subprocess.CompletedProcess([str(word) for word in words], process.exitcode, out, err)


def run_code(code, cwd, words=(), **how):
    """Run a program, given as text, as ``python FILE ARGUMENTS...`` would, with this process's path of modules.

    Args:
        code: the program.
        cwd: the folder to run it in.
        words: its arguments.
        how: as of :func:`run_module`.

    Returns:
        as :func:`run_module`.
    """
    Path(cwd, "program.py").write_text(code, encoding="utf-8")
    return run_module(["program", *words], cwd, **how)


def run_ranks(words, cwd, number, timeout=600):
    """Run ``python -m MODULE ARGUMENTS...`` in several processes of one group, as torchrun would start them.

    Args:
        words, cwd, timeout: as of :func:`run_module`.
        number: of processes.

    Returns:
        What ``subprocess.run`` returns, with the status of the first that failed and what all of them printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(number)}
    group["TORCHELASTIC_RUN_ID"] = "test"
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(number)} for rank in range(number)]
    with ThreadPoolExecutor(number) as threads:
        started = [threads.submit(run_module, words, cwd, timeout, os.environ | group | rank) for rank in ranks]
        done = [one.result() for one in started]
    status = next((one.returncode for one in done if one.returncode), 0)
    said = ["".join(texts) for texts in ((d.stdout for d in done), (d.stderr for d in done))]
    return subprocess.CompletedProcess(done[0].args, status, *said)


def start_module(words, cwd, out, err, env=None):
    """Start ``python -m MODULE ARGUMENTS...``, with files for what it prints; returns the process, which runs on."""
    environment = dict(os.environ if env is None else env)
    process = _context.Process(target=_run, args=([str(word) for word in words], str(cwd), environment, [out, err]))
    process.start()
    return process


def _run(words, cwd, environment, files):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.path[:0] = [cwd]
    sys.argv = ["", *words[1:]]
    status = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if status and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    except BaseException:
        status = 1
        try:
            sys.excepthook(*sys.exc_info())
        except BaseException:
            traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
