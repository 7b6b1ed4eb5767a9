// SPDX-License-Identifier: Apache-2.0

// Package server puts a coordinator node on the network: the API of package api over
// HTTP (Connect, gRPC and plain JSON on one port), /livez and /readyz for probes, and
// /metrics for Prometheus. It translates and decides nothing.
package server
