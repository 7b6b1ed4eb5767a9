# SPDX-License-Identifier: Apache-2.0

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOSEC       := github.com/securego/gosec/v2/cmd/gosec@v2.30.0
VULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0
RELEASE     := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w'
PACKAGES    ?= ./...
DIST        := dist
SIGNING_KEY ?=
# What one goroutine runs, so that the race detector has nothing to find there.
PURE        := /(internal/(sim|explore|tidy|supply)|protocol|coordinator/(commit|deadlock|replica)|recovery|txn)(/|$$)
# Tests start database servers and wait for processes, so packages run three at a time on any machine; and tests/e2e
# runs a binary that the test cache does not know, so no result is taken from there.
TESTFLAGS   ?= -race -count=1 -p 3 -vet=off -timeout 35m
# What takes longest is the first to begin.
LONGEST     := /(tests/(e2e|attack|operator)|adapters/mysql|coordinator|wal|cmd/concord/demo)$$
SEEDS       ?= 5000
TXN_SEEDS   ?= 1000
MUTANTS     := $(sort $(shell find . -name mutants_test.go -printf '%h\n'))
PROVE_TIME  ?= 1h
CHAOS_TIME  ?= 10m
CHAOS_SEED  ?= 0

.PHONY: help build dist sign test race examples simulate mutants containers compose-test chaos attack prove databases vet audit \
	scorecard generate cover compose-up clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## bin/concord and bin/concord-bench, static
	$(RELEASE) -o bin/ ./cmd/concord ./cmd/concord-bench

dist: ## a release: the programs, built twice with equal hashes, their bills of materials, SHA256SUMS
	@rm -rf dist && mkdir dist
	$(RELEASE) -o dist/ ./cmd/concord ./cmd/concord-bench
	@again=$$(mktemp -d) && trap 'chmod -R u+w "$$again" && rm -rf "$$again"' EXIT && mkdir "$$again/source" && \
		tar --exclude=./bin --exclude=./dist -cf - . | tar -C "$$again/source" -xf - && cd "$$again/source" && \
		GOCACHE="$$again/cache" $(RELEASE) -o "$$again/bin/" ./cmd/concord ./cmd/concord-bench && \
		cd "$(CURDIR)/dist" && for program in *; do cmp "$$program" "$$again/bin/$$program"; done && \
		echo "built twice, from two directories, with equal bytes"
	@for program in concord concord-bench; do \
		go run ./internal/supply dist/$$program > bin.cdx.json && mv bin.cdx.json dist/$$program.cdx.json; done
	@cd dist && sha256sum -- * > SHA256SUMS && cat SHA256SUMS
	@$(MAKE) -s sign

sign: ## dist/SHA256SUMS.sig, by the key of ssh-keygen that SIGNING_KEY names (part of dist)
	@if [ -n "$(SIGNING_KEY)" ]; then rm -f $(DIST)/SHA256SUMS.sig && \
		ssh-keygen -q -Y sign -n concord-release -f "$(SIGNING_KEY)" $(DIST)/SHA256SUMS; \
	else echo "not signed: name a key of ssh-keygen, or its public half if an agent has it, with SIGNING_KEY=FILE"; fi

databases: ## find or install PostgreSQL, MariaDB, MySQL and promtool for the tests
	@internal/testdb/install/install.sh

test: databases ## everything: race detector, real databases, seeds, planted mistakes, containers
	@go build -o bin/summary ./internal/testdb/summary
	@rm -f bin/failed
	@for step in race examples simulate mutants containers; do $(MAKE) -s $$step || echo $$step >> bin/failed; done | bin/summary
	@if [ -s bin/failed ]; then echo "FAIL: make $$(paste -sd ' ' bin/failed)"; exit 1; fi

# These print events, which bin/summary reads.
race:
	@packages=$$(go list $(PACKAGES) | grep -v -E '$(PURE)' | \
		awk -v long='$(LONGEST)' '{print /\/e2e$$/ ? 0 : $$0 ~ long ? 1 : 2, $$0}' | sort -s -n -k1,1 | cut -d' ' -f2); \
		CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} go test -json $(TESTFLAGS) $$packages

examples: # modules of their own
	@for module in examples/orm concordgrpc; do \
		(cd $$module && go vet ./... && CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} go test -json $(TESTFLAGS) ./...); done

simulate:
	@go test -json -count=1 -vet=off -timeout 15m $$(go list ./... | grep -E '$(PURE)' | \
		grep -v -E '/internal/(sim|explore)/')
	@GOGC=400 go test -json -count=1 -vet=off -timeout 15m ./internal/sim/logsim -sim.seeds=$(SEEDS)
	@GOGC=400 go test -json -count=1 -vet=off -timeout 15m ./internal/sim/txnsim -sim.seeds=$(TXN_SEEDS)
	@go test -json -count=1 -vet=off -timeout 15m ./internal/explore/...

mutants:
	@CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} \
		go test -json -count=1 -vet=off -p 1 -timeout 15m -tags mutant -run '^TestMutants$$' $(MUTANTS)

containers: build
	@tests/compose/install.sh >&2
	@CONCORD_BINARY=bin/concord go test -json -count=1 -timeout 20m -tags compose ./tests/compose

compose-test: databases build ## docker-compose.yml in containers that are killed, cut off and made anew
	@tests/compose/install.sh
	CONCORD_TEST_REQUIRE=1 CONCORD_BINARY=bin/concord go test -v -count=1 -timeout 20m -tags compose ./tests/compose

chaos: databases ## everything breaks under load for CHAOS_TIME, at least 300 faults and 20,000 transactions, and a table
	CONCORD_TEST_REQUIRE=1 go test -v -count=1 -timeout 60m ./tests/chaos -run 'History|TestChaos' -chaos.length=$(CHAOS_TIME) \
		-chaos.faults=300 -chaos.transactions=20000 -chaos.seed=$(CHAOS_SEED)

attack: ## strangers and hostile clients against real nodes
	go test -race -count=1 -timeout 20m -v ./tests/attack
	go test -race -count=1 ./security/... ./coordinator/peer ./cmd/internal/config ./internal/supply
	go test -race -count=1 -run 'Procedure|LetIn|Token|Caller|Others|Nobody|Guarded|Subject' \
		./server ./participant/service ./gateway ./api/member

prove: databases ## search for mistakes for PROVE_TIME, and print a table
	GOGC=400 go run ./internal/prove -time $(PROVE_TIME)

vet: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags compose ./tests/compose
	go run $(STATICCHECK) ./...

# Rules that do not apply: the numbers of G115 are bounded where they are decoded, which fuzz targets show, and the
# files of G304 are those that whoever starts the program names. Folders that are left out are never in the program.
audit: ## go.mod, gosec, known vulnerabilities
	go mod verify
	go mod tidy -diff
	go run $(GOSEC) -quiet -exclude-generated -exclude=G115,G304 $(addprefix -exclude-dir=,internal/testdb internal/program \
		internal/sim internal/prove internal/supply bench cmd/concord-bench adapters/adaptertest examples) ./...
	@if python3 -c 'import urllib.request as r; r.urlopen("https://vuln.go.dev/index/db.json", timeout=20)' 2>/dev/null; then \
		go run $(VULNCHECK) ./...; else echo 'govulncheck: NOT RUN, its database cannot be reached'; fi

scorecard: ## the 18 checks of OpenSSF Scorecard, as far as the tree can answer them
	@go run ./internal/supply scorecard

generate: ## generated code
	go generate ./...

cover: databases ## coverage.html
	CONCORD_TEST_REQUIRE=1 go test -p 2 -timeout 15m -coverpkg=./... -coverprofile=coverage.out ./...
	go tool cover -html=coverage.out -o coverage.html
	go tool cover -func=coverage.out | tail -n 1

compose-up: ## three coordinators, PostgreSQL, MySQL and MariaDB in containers
	docker compose up --build --wait

clean: ## remove what the targets above made
	rm -rf bin dist coverage.out coverage.html
