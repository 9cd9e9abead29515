# The program as a BIDS app with its weights; it needs no network once it is built.
#   docker build -t cmb .                        for the processor
#   docker build -t cmb --build-arg TORCH=cu126 .   for CUDA
#   docker run --rm --network none --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#       -v "$PWD/bids:/data:ro" -v "$PWD/results:/out" cmb /data /out participant
ARG BASE=docker.io/library/python:3.11-slim
FROM ${BASE}
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl
COPY constraints.txt /opt/cmb/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c /opt/cmb/constraints.txt torch --index-url "${TORCH_INDEX}/${TORCH}"
COPY setup.cfg pyproject.toml README.md LICENSE /opt/cmb/
COPY cmb_bundle /opt/cmb/cmb_bundle
RUN /opt/venv/bin/pip install --no-cache-dir -c /opt/cmb/constraints.txt "/opt/cmb[dicom,regions,cluster]" \
    && rm -r /opt/cmb
# glibc keeps its memory, which saves a quarter of the time; what is written for a moment goes to /tmp; PyTorch asks for
# the name of the user, which a number given by --user has not
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=cmb LOGNAME=cmb MPLCONFIGDIR=/tmp/matplotlib MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_ARENA_MAX=1
WORKDIR /tmp
USER 1000:1000
ENTRYPOINT ["python", "-m", "cmb_bundle.scripts.inference.bids_app"]
