// SPDX-License-Identifier: Apache-2.0

// Package spans exports what a node or an agent does about transactions as spans of OpenTelemetry: over OTLP, with
// protobuf over HTTP, to a collector.
//
// The SDK of OpenTelemetry and its exporter would add seventeen modules to the program, gRPC among them, for spans that
// are few and of one shape. So this package has the messages of the protocol, which are one module, and a queue.
//
// A nil *Exporter is one that exports nothing, and costs nothing: its spans are nil, too, and all of their methods may
// be called. A caller owes a span one End, or none if nothing is to be told of it.
//
// A span has no text of an error, and nothing that came from a database: what may be in these is for the log, where a
// gid finds it.
package spans
