# Every verb says what it does: make help. As root: up, down, test-netns, test-bed, test-conformance, conformance, bench.
SHELL := /bin/bash
GO ?= go
# Outside of tags the version is the one in pkg/version.
VERSION ?= $(shell git describe --tags --exact-match 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X github.com/nodeagent/nodeagent/pkg/version.AgentVersion=$(VERSION))
# For example TESTFLAGS='-run TestLife -v'
TESTFLAGS ?=
BED := bin/bed

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the product's programs, into bin
	CGO_ENABLED=0 $(GO) build -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

.PHONY: bin/bed
bin/bed:
	@mkdir -p bin
	@$(GO) build -o $@ ./test/cmd/bed

.PHONY: deps
deps: $(BED) ## install the Debian packages that the test bed needs
	$(BED) deps

.PHONY: up
up: $(BED) ## a cluster on this machine, nodes joined, a Service answering
	$(BED) up $(UP)

.PHONY: down
down: $(BED) ## take it away
	$(BED) down

.PHONY: test
test: lint test-unit test-race test-netns test-bed test-conformance ## everything that CI runs

.PHONY: test-unit
test-unit: ## what needs nothing but Go
	$(GO) test $(TESTFLAGS) $$($(GO) list ./... | grep -v /test/)

# What has goroutines of its own; client-go, which takes minutes to build with the detector, is not among what they import.
RACE := ./pkg/keyed ./pkg/node ./pkg/podsync ./pkg/proxier ./pkg/proxier/nftables ./pkg/proxier/healthcheck ./pkg/podsync/probe ./pkg/podsync/hook \
	./pkg/reset ./pkg/runtime/logpump/... ./pkg/runtime/fakeruntime

.PHONY: test-race
test-race: ## loops under the race detector
	$(GO) test -race $(TESTFLAGS) $(RACE)

.PHONY: test-netns
test-netns: ## edges against the real kernel, in network namespaces of their own
	$(GO) test -count=1 $(TESTFLAGS) ./test/netns/...

.PHONY: test-bed
test-bed: deps ## real containerd and real clusters on this machine
	@runc=$$($(BED) tools runc | cut -d' ' -f2) && NODEAGENT_RUNC=$$runc $(GO) test -count=1 $(TESTFLAGS) ./pkg/runtime/containerconfig
	NODEAGENT_BED=1 $(GO) test -count=1 -p 1 -timeout 45m $(TESTFLAGS) ./test/containerd/... ./test/join/... ./test/bed/... ./test/e2e/... ./test/conformance/...

# Three nodes, since some specs want as many. Every listed spec has its turn as commits go by.
.PHONY: test-conformance
test-conformance: bin/conformance-run deps ## about ten minutes of the e2e specs known to pass, chosen by the commit: SEED=X
	bin/conformance-run --rotate --procs 3 --nodes 3 --timeout 30m $(if $(SEED),--seed '$(SEED)') $(if $(ARTIFACTS),--artifacts '$(ARTIFACTS)')

.PHONY: bin/conformance-run
bin/conformance-run:
	@mkdir -p bin
	@$(GO) build -o $@ ./test/cmd/conformance

.PHONY: conformance
conformance: bin/conformance-run deps ## Kubernetes e2e specs: FOCUS=RE SKIP=RE PROCS=N NODES=N PEER=1 UPDATE=1 KEEP=1 ARTIFACTS=DIR
	bin/conformance-run $(if $(FOCUS),--focus '$(FOCUS)') $(if $(SKIP),--skip '$(SKIP)') $(if $(PROCS),--procs $(PROCS)) $(if $(NODES),--nodes $(NODES)) \
		$(if $(PEER),--peer) $(if $(UPDATE),--update) $(if $(KEEP),--keep) $(if $(ARTIFACTS),--artifacts '$(ARTIFACTS)') $(CONFORMANCE)

.PHONY: bench
bench: $(BED) deps ## nodeagent beside upstream's kubelet and kube-proxy: PODS=N BURST=N SERVICES=N JSON=FILE BENCH='flags'
	$(BED) bench $(if $(PODS),--pods $(PODS)) $(if $(BURST),--burst $(BURST)) $(if $(SERVICES),--services $(SERVICES)) $(if $(JSON),--json '$(JSON)') $(BENCH)

PREFIX ?= /usr/local
.PHONY: install
install: build ## programs and systemd unit, on this machine or below DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/systemd/system
	install -m 0755 bin/nodeagent bin/nodeagent-pump $(DESTDIR)$(PREFIX)/bin/
	install -m 0644 systemd/nodeagent.service $(DESTDIR)/etc/systemd/system/
	@# what is there already is this machine's own
	test -e $(DESTDIR)/etc/default/nodeagent || install -D -m 0644 systemd/nodeagent.default $(DESTDIR)/etc/default/nodeagent

.PHONY: lint
lint: $(BED) ## the caps and habits of CONTRIBUTING.md
	@lint=$$($(BED) tools golangci-lint | cut -d' ' -f2) && $$lint run ./...

.PHONY: fmt
fmt: $(BED) ## format every file
	@lint=$$($(BED) tools golangci-lint | cut -d' ' -f2) && $$lint fmt ./...

.PHONY: golden
golden: ## rewrite golden files; read the difference
	$(GO) test ./pkg/... ./internal/... ./cmd/nodeagent -update

.PHONY: clean
clean: down ## the cluster, what killed runs left, and bin
	$(BED) sweep
	rm -rf bin
