#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Writes the Go code of the API from concord/v1/*.proto. The result is
# committed, so only a change of the .proto needs this. It needs Go and either buf
# or npx; the versions are pinned here so that everybody writes the same bytes.
set -eu
cd "$(dirname "$0")"

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOFLAGS='' GOBIN="$bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOFLAGS='' GOBIN="$bin" go install connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.21.1
PATH="$bin:$PATH"

if command -v buf >/dev/null 2>&1; then
	buf=buf
elif command -v npx >/dev/null 2>&1; then
	buf='npx --yes @bufbuild/buf@1.75.0'
else
	echo 'generate: neither buf nor npx is installed; install one of them (https://buf.build/docs/cli)' >&2
	exit 1
fi
$buf lint
$buf generate
