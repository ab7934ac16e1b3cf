"""Compiles the kernels into the wheel. Where that does not work, the wheel has none, and
the package works without them; with `IMPLICIT_EIG_KERNELS=on` there is no wheel then."""

import importlib.util
import os
import pathlib
import shutil
import tempfile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


KERNELS = "implicit_eig/_kernels"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        build = self._build()
        self.aside = tempfile.mkdtemp()
        # An editable install is run from where it stands.
        in_place = version == "editable"
        folder = build.HERE if in_place else pathlib.Path(self.aside)
        try:
            library = build.build(folder)
        except build.NotBuilt as reason:
            if os.environ.get("IMPLICIT_EIG_KERNELS") == "on":
                raise
            self.app.display_warning(f"Without kernels, which are optional: {reason}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = build.platform_tag()
        if not in_place:
            build_data["force_include"][str(library)] = f"{KERNELS}/{library.name}"

    def finalize(self, version, build_data, artifact_path):
        shutil.rmtree(self.aside, ignore_errors=True)

    def dependencies(self):
        """For its headers."""
        try:
            self._build().compiler()
        except Exception:  # which `initialize` reports
            return []
        return ["jaxlib>=0.9.0"]

    def _build(self):
        path = pathlib.Path(self.root, KERNELS, "build.py")
        spec = importlib.util.spec_from_file_location("kernels_build", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
