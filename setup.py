"""Build the package from settings.ini, the home of its metadata and requirement lists."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
parser = ConfigParser(interpolation=None)
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_name"]
# The workflow and the archived runs travel with the wheel: the folder paper/ is installed as xlingtox/paper, and
# evidence/ as xlingtox/evidence.
homes = {lib: lib} | {f"{lib}.{home}": home for home in ("paper", "evidence") if (HERE / home).is_dir()}


def lines(key):
    "The non-empty lines of a multi-line setting"
    return [line.strip() for line in cfg[key].splitlines() if line.strip()]


def packages(name, home):
    "`home` and every folder below it that holds code, as dotted package names; the others hold data of theirs"
    for folder in [HERE / home, *sorted(init.parent for init in (HERE / home).glob("*/**/__init__.py"))]:
        yield ".".join([name, *folder.relative_to(HERE / home).parts])


readme = HERE / "README.md"
init = (HERE / lib / "__init__.py").read_text(encoding="utf-8")

setup(
    version=re.search(r'__version__ = "(.+)"', init).group(1),
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    classifiers=lines("classifiers"),
    license_expression=cfg["license"],
    python_requires=">=" + cfg["min_python"],
    packages=[package for name, home in homes.items() for package in packages(name, home)],
    package_dir=homes,
    include_package_data=False,
    package_data={lib: ["py.typed", "**/*.pyi", "assets/**/*"], f"{lib}.paper": ["**/*"], f"{lib}.evidence": ["**/*"]},
    install_requires=lines("requirements"),
    extras_require={extra: lines(f"{extra}_requirements")
                    for extra in ("dev", "capability", "gguf", "slurm", "umap", "vllm")},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": [f"{lib}={lib}._modidx:d"]},
)
