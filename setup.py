"""Name the packages: cli/ and kernels/ at the root are vlcompress.cli and vlcompress.kernels.

The symbolic links in vlcompress/ say the same to a source tree that is not installed, and to an editable install. A
checkout without links (core.symlinks=false, an archive unpacked without them) has text files there, and builds as well.
"""

import re
import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOTS = {"vlcompress.cli": "cli", "vlcompress.kernels": "kernels"}
EDITABLE = "editable_wheel" in sys.argv

if EDITABLE and not all(Path(name.replace(".", "/")).is_dir() for name in ROOTS):
    raise SystemExit(
        "error: an editable install follows the symbolic links vlcompress/cli and vlcompress/kernels, which are no "
        "links here: git config core.symlinks true && git checkout -- vlcompress, or install without -e"
    )


def long_description() -> str:
    """Return README.md for an index's page, where images and links into the source tree would lead nowhere."""
    text = re.sub(r"^!\[.*\n", "", Path("README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\((?!https://)[^)]*\)", r"\1", text)


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    packages=sorted({*find_namespace_packages(include=["vlcompress*"]), *ROOTS}),
    package_dir={"": "."} if EDITABLE else ROOTS,
)
