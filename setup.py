"""Packaging: `pip install -e .` makes `segkit` and `data_prep` importable from anywhere."""

import re
from pathlib import Path

from setuptools import find_packages
from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "segkit/__init__.py").read_text()).group(1)

CODECS = ["pylibjpeg>=2.1", "pylibjpeg-openjpeg>=2.6", "pyjpegls>=1.5", "python-gdcm>=3.2"]
TUNE = ["optuna>=4.9"]
MASKRCNN = ["tf-models-official>=2.20,<2.21", "pycocotools>=2.0.8"]

setup(
    name="segkit",
    version=VERSION,
    description="Medical image segmentation in TensorFlow and Keras 3: raw DICOM/NIfTI in, "
    "a trained and served model out",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["segkit*", "data_prep*"]),
    package_data={"data_prep.augment": ["policies/*.yaml"]},
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.15.1",
        "numpy>=1.26",
        "scipy>=1.12",
        "scikit-image>=0.24",
        "nibabel>=5.3",
        "pydicom>=3.0.2",
        "pillow>=11",
        "tifffile>=2024.8",
        "protobuf>=5.28",
        "google-crc32c>=1.6",
        "PyYAML>=6.0",
        "tqdm>=4.66",
        "matplotlib>=3.9",
    ],
    extras_require={
        "dicom-codecs": CODECS,
        "tune": TUNE,
        "maskrcnn": MASKRCNN,
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "SimpleITK>=2.4",
            "highdicom>=0.27",
            "jax>=0.6",
            *CODECS,
            *TUNE,
            *MASKRCNN,
        ],
    },
)
