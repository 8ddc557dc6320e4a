"""The part of packaging that pyproject.toml cannot say: ``conf/`` is the package ``mola_lightning.conf``.

Every folder below ``conf/`` and ``src/`` is found, at any depth: a new config group or subpackage needs no change
here.
"""

from setuptools import find_namespace_packages, setup


def packages_below(folder: str) -> list[str]:
    """Dotted names of all folders below ``folder``, without the interpreter's caches."""
    return [name for name in find_namespace_packages(folder) if "__pycache__" not in name and "egg-info" not in name]


setup(
    packages=[
        *packages_below("src"),
        "mola_lightning.conf",
        *(f"mola_lightning.conf.{group}" for group in packages_below("conf")),
    ],
    package_dir={"": "src", "mola_lightning.conf": "conf"},
)
