"""The build step of ``pip install .``: the checkout becomes one package. Everything else is in pyproject.toml."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "yolov5_prune"


class BuildTree(build_py):
    """Puts utils/, models/ ... into the package; an editable installation finds them in the checkout."""

    def run(self) -> None:
        """Build the package as setuptools does, then add the folders; nothing of an earlier build stays."""
        package = Path(self.build_lib, PACKAGE)
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            runpy.run_path(f"{PACKAGE}/tree.py")["write_package"](Path(), package)


setup(cmdclass={"build_py": BuildTree})
