// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

import "os"

func hints() []os.Signal { return nil }
