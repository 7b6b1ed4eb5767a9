// SPDX-License-Identifier: Apache-2.0

// Package service puts an agent on the network: the ParticipantService of package api over HTTP
// (Connect, gRPC and plain JSON on one port), with /livez and /readyz for probes; and lets it ask
// the coordinators. It translates and decides nothing.
package service
