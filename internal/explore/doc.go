// SPDX-License-Identifier: Apache-2.0

// Package explore visits every state that a small world of cores can reach.
package explore
