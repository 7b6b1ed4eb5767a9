// SPDX-License-Identifier: Apache-2.0

// Package attack has no code but tests: what strangers, and those who may come in, try against real
// nodes. Each test has the number of its attack in docs/security.md. In each of them honest clients
// go on committing, and the nodes stay within their memory.
package attack
