"""The commands of the documentation."""

import re


def commands(page, start="python -m monai.bundle"):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(start)]
