PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Otherwise glibc returns memory to the system after every batch, which costs a quarter of the speed. With a single arena,
# memory freed by one thread is reused by others.
export MALLOC_MMAP_MAX_ = 0
export MALLOC_TRIM_THRESHOLD_ = 17179869184
export MALLOC_ARENA_MAX = 1

LABEL_VENV ?= .venv-label

.PHONY: install demo test lint e2e faults

install: $(VENV)/.installed

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: install
	$(RUN) -m cmb_bundle.scripts.phantom make_cohort demo/scans --subjects 6 --preset SMALL --seed 42
	$(RUN) -m monai.bundle run --config_file "['cmb_bundle/configs/inference.json','cmb_bundle/configs/evaluate.json']" --dataset_dir demo/scans --subset all --output_dir demo/results
	@echo "Found with the shipped weights: see demo/results/report.html and demo/results/*/*_cmb.png. Training follows."
	$(RUN) -m cmb_bundle.scripts.phantom make_cohort demo/cohort --subjects 20 --preset SMALL
	$(RUN) -m monai.bundle run training --config_file cmb_bundle/configs/train.json --dataset_dir demo/cohort --output_dir demo/training --detector_epochs 80 --classifier_epochs 25 --classifier_batch_size 16
	$(RUN) -m monai.bundle run --config_file "['cmb_bundle/configs/inference.json','cmb_bundle/configs/evaluate.json']" --dataset_dir demo/cohort --datalist_file demo/training/datalist.json --checkpoint demo/training/model.pt --output_dir demo/trained
	@echo "Found with the weights trained just now: see demo/trained/report.html and demo/trained/*/*_cmb.png"

# Where the variable is set, each of the many processes would compile all modules again.
test: install lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) -m pytest

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

faults: install
	OMP_NUM_THREADS=1 $(RUN) -m tests.faults

e2e: install $(LABEL_VENV)/.installed
	$(RUN) -m tests.e2e --python $(LABEL_VENV)/bin/python

$(LABEL_VENV)/.installed: tests/e2e/requirements.txt
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@
