# SPDX-License-Identifier: Apache-2.0

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
PACKAGES    ?= ./...
# Tests start database servers, so packages run two at a time; and tests/e2e runs a binary
# that the test cache does not know, so no result is taken from there.
TESTFLAGS   ?= -race -count=1 -p 2 -timeout 15m

.PHONY: help build test databases vet generate cover compose-up clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## bin/concord, static
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/concord ./cmd/concord

databases: ## find or install PostgreSQL, MariaDB and MySQL for the tests
	@internal/testdb/install/install.sh

test: databases ## everything, with the race detector, on real databases
	@go build -o bin/summary ./internal/testdb/summary
	@CONCORD_TEST_REQUIRE=$${CONCORD_TEST_REQUIRE:-1} \
		go test -json $(TESTFLAGS) $(PACKAGES) | bin/summary

vet: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
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
