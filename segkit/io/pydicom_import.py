"""Imports pydicom so that the working directory cannot break it.

python-gdcm runs `import dl` (a module that left Python in 2.7). A folder named `dl` in the
working directory would be taken for it, and pydicom would then fail to import.
"""

import importlib
import sys

_OBSOLETE = ("dl", "DLFCN")


def _import_pydicom():
    absent = object()
    before = {name: sys.modules.get(name, absent) for name in _OBSOLETE}
    sys.modules.update(dict.fromkeys(_OBSOLETE))
    try:
        importlib.import_module("pydicom.pixels")
    finally:
        for name, module in before.items():
            if module is absent:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return importlib.import_module("pydicom")


pydicom = _import_pydicom()
