// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen soon.
const patience = 60 * time.Second

var (
	length       = flag.Duration("chaos.length", 45*time.Second, "how long there is load under faults, at least")
	leastFaults  = flag.Int("chaos.faults", 10, "how many faults there are at least")
	leastCommits = flag.Int("chaos.transactions", 300, "how many transactions commit at least")
	seed         = flag.Uint64("chaos.seed", 0, "what the faults are drawn from; 0: the time")
	only         = flag.String("chaos.only", "", "the one fault that is drawn; empty: any")
	keep         = flag.Bool("chaos.keep", false, "keep the directory of a run that passes, too")
)

// binary is the path of cmd/concord, which TestMain builds unless binaryEnv names one.
var binary string

const binaryEnv = "CONCORD_CHAOS_BINARY"

func TestMain(m *testing.M) {
	if order := os.Getenv(clientEnv); order != "" {
		os.Exit(runClient(order))
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "concord-chaos-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary = os.Getenv(binaryEnv); binary == "" {
		binary = filepath.Join(dir, "concord")
		if out, err := exec.Command("go", "build", "-o", binary,
			"github.com/concordtx/concord/cmd/concord").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build concord: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}
