// SPDX-License-Identifier: Apache-2.0

// Command supply writes the bill of materials of a program, in CycloneDX: the modules that are linked into it as
// the Go tool noted them there, their checksums, and their licences as their own files state them.
//
//	supply PROGRAM > PROGRAM.cdx.json
//
// With the word "scorecard" it says instead how the tree stands with the 18 checks of OpenSSF Scorecard.
//
// A module whose licence is not among those that are allowed, or is not known, is an error. What a program of
// the same source is made of is written in the same bytes. The tests of this package hold the budget of
// docs/dependencies.md.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "supply: want one argument, the program: supply PROGRAM > PROGRAM.cdx.json; or "+
			"scorecard")
		os.Exit(2)
	}
	if os.Args[1] == "scorecard" {
		if err := printScorecard(os.Stdout, "."); err != nil {
			fmt.Fprintln(os.Stderr, "supply:", err)
			os.Exit(1)
		}
		return
	}
	bill, err := materials(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "supply:", err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(bill); err != nil {
		fmt.Fprintln(os.Stderr, "supply:", err)
		os.Exit(1)
	}
}
