// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"
)

// checkers runs the tests of the checks: bad histories that they must reject, good twins that
// they must accept, and bugs of drivers and databases that they must catch.
func checkers(ctx context.Context, t *table, _ options, _ time.Duration) error {
	const tests = "BadHistory|Planted|Leftover|Linearizab"
	lines, err := goTest(ctx, "-count=1", "-v", "-run", tests, "./internal/sim/...", "./internal/explore/...")
	found := "each bad history is rejected, each good twin accepted"
	if n := passedTests(lines); err == nil && n < 20 {
		err = fmt.Errorf("only %d tests of the checkers were run", n)
	}
	if err != nil {
		found = "**FAILED**"
	}
	t.add("the checkers themselves", count(passedTests(lines))+" histories and planted bugs", found)
	return err
}
