# SPDX-License-Identifier: Apache-2.0

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PACKAGES    ?= ./...
# Tests start database servers, so packages run two at a time; and tests/e2e runs a binary
# that the test cache does not know, so no result is taken from there.
TESTFLAGS   ?= -race -count=1 -p 2 -timeout 25m
SEEDS       ?= 5000
TXN_SEEDS   ?= 1000
MUTANTS     := $(sort $(shell find . -name mutants_test.go -printf '%h\n'))
PROVE_TIME  ?= 1h

.PHONY: help build test race examples simulate mutants containers compose-test attack prove databases vet generate cover compose-up clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## bin/concord and bin/concord-bench, static
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ ./cmd/concord ./cmd/concord-bench

databases: ## find or install PostgreSQL, MariaDB and MySQL for the tests
	@internal/testdb/install/install.sh

test: databases ## everything: race detector, real databases, seeds, planted mistakes, containers
	@go build -o bin/summary ./internal/testdb/summary
	@rm -f bin/failed
	@for step in race examples simulate mutants containers; do $(MAKE) -s $$step || echo $$step >> bin/failed; done | bin/summary
	@if [ -s bin/failed ]; then echo "FAIL: make $$(paste -sd ' ' bin/failed)"; exit 1; fi

# These print events, which bin/summary reads.
race:
	@packages=$$(go list $(PACKAGES) | grep -v -E '/internal/(sim|explore)(/|$$)'); \
		CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} go test -json $(TESTFLAGS) $$packages

examples: # modules of their own
	@cd examples/orm && go vet ./... && CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} go test -json $(TESTFLAGS) ./...

simulate: # one goroutine runs a simulated world, so the race detector has nothing to find there
	@go test -json -count=1 -timeout 15m ./internal/sim
	@GOGC=400 go test -json -count=1 -timeout 15m ./internal/sim/logsim -sim.seeds=$(SEEDS)
	@GOGC=400 go test -json -count=1 -timeout 15m ./internal/sim/txnsim -sim.seeds=$(TXN_SEEDS)
	@go test -json -count=1 -timeout 15m ./internal/explore/...

mutants:
	@CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} \
		go test -json -count=1 -p 1 -timeout 15m -tags mutant -run '^TestMutants$$' $(MUTANTS)

containers: build
	@tests/compose/install.sh >&2
	@CONCORD_BINARY=bin/concord go test -json -count=1 -timeout 20m -tags compose ./tests/compose

compose-test: databases build ## docker-compose.yml in containers that are killed, cut off and made anew
	@tests/compose/install.sh
	CONCORD_TEST_REQUIRE=1 CONCORD_BINARY=bin/concord go test -v -count=1 -timeout 20m -tags compose ./tests/compose

attack: ## strangers and hostile clients against real nodes
	go test -race -count=1 -timeout 20m -v ./tests/attack
	go test -race -count=1 ./security/... ./coordinator/peer
	go test -race -count=1 -run 'Procedure|LetIn|Token|Caller|Others|Nobody|Guarded' ./server ./participant/service ./gateway ./api/member

prove: databases ## search for mistakes for PROVE_TIME, and print a table
	GOGC=400 go run ./internal/prove -time $(PROVE_TIME)

vet: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags compose ./tests/compose
	go run $(STATICCHECK) ./...

generate: ## generated code
	go generate ./...

cover: databases ## coverage.html
	CONCORD_TEST_REQUIRE=1 go test -p 2 -timeout 15m -coverpkg=./... -coverprofile=coverage.out ./...
	go tool cover -html=coverage.out -o coverage.html
	go tool cover -func=coverage.out | tail -n 1

compose-up: ## three coordinators, PostgreSQL, MySQL and MariaDB in containers
	docker compose up --build --wait

clean: ## remove what the targets above made
	rm -rf bin coverage.out coverage.html
