# Both commands of the README on a machine that has docker and nothing else:
#     docker build -t xlingtox .
#     docker run --rm -v xlingtox-runs:/home/reader/xlingtox/runs xlingtox make paper
#     docker run --rm xlingtox make test
# The report is then in the volume xlingtox-runs, under mini/report/index.html.
FROM python:3.11-slim-bookworm

# make for the commands, git for who develops, Chromium for the tests that open the report in a browser
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make git chromium chromium-driver \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home reader \
    && install --directory --owner reader --group reader /home/reader/xlingtox /home/reader/xlingtox/runs

USER reader
WORKDIR /home/reader/xlingtox

# What pip installs is a layer of its own, made again only when a requirement changes. torch comes without CUDA, which the miniature does not
# need; for a machine with a GPU: --build-arg PIP_EXTRA_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY --chown=reader:reader Makefile settings.ini constraints.txt setup.py pyproject.toml README.md ./
COPY --chown=reader:reader xlingtox/__init__.py xlingtox/__init__.py
COPY --chown=reader:reader paper/Snakefile paper/Snakefile
RUN make .venv/.installed-dev

# The stamp of the installation must stay newer than the files that decide it.
COPY --chown=reader:reader . .
RUN touch .venv/.installed .venv/.installed-dev

CMD ["make", "paper"]
