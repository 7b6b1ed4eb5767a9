// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/concordtx/concord/internal/program/programtest"
)

const patience = programtest.Patience

var (
	length       = flag.Duration("chaos.length", 45*time.Second, "how long there is load under faults, at least")
	leastFaults  = flag.Int("chaos.faults", 10, "how many faults there are at least")
	leastCommits = flag.Int("chaos.transactions", 300, "how many transactions commit at least")
	seed         = flag.Uint64("chaos.seed", 0, "what the faults are drawn from; 0: the time")
	only         = flag.String("chaos.only", "", "the one fault that is drawn; empty: any")
	keep         = flag.Bool("chaos.keep", false, "keep the directory of a run that passes, too")
)

// binary is the path of cmd/concord.
var binary string

func TestMain(m *testing.M) {
	if order := os.Getenv(clientEnv); order != "" {
		os.Exit(runClient(order))
	}
	flag.Parse()
	os.Exit(programtest.Run(m, &binary))
}
