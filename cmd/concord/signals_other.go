// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

import "os"

func hints() []os.Signal { return nil }

// leaveNoCore is for systems that have core files.
func leaveNoCore() {}
