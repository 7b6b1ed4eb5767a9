// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"strings"
)

// cell is one line of the fault matrix, as far as it means real processes or real databases.
type cell struct {
	id, what string
	// elsewhere is the test that covers it if no fault of this package is made for it.
	elsewhere string
}

// cells are K, D, H and R, and those of L, F and N that are meant for real processes, and of A those that are met.
var cells = []cell{
	{"K01", "a client dies before Commit", ""},
	{"K02", "a client dies after Commit was sent", ""},
	{"K03", "the answer to Commit is lost, and it comes again", ""},
	{"K04", "the answer to Begin is lost", "TestASilentTransactionIsRolledBack"},
	{"K05", "Commit and Rollback at the same time", ""},
	{"K06", "a branch after the decision", ""},
	{"K07", "the outcome of something unknown or too old", "unknown: here; too old: the simulation"},
	{"K08", "ten times too much", ""},
	{"K09", "a client's clock is wrong by a year", "the simulation"},
	{"D01", "a database is killed during work", ""},
	{"D02", "a database is killed during PREPARE", ""},
	{"D03", "a database is killed after PREPARE", ""},
	{"D04", "a database is killed during COMMIT PREPARED", ""},
	{"D05", "a database is stopped", ""},
	{"D06", "a database is down for ten minutes", "the simulation; seconds: here, D03"},
	{"D07", "the disk of a database is full at PREPARE", ""},
	{"D08", "the disk of a database is full at COMMIT PREPARED", ""},
	{"D09", "a prepared branch is lost, decided commit", ""},
	{"D10", "a prepared branch is gone, and its marker is there", ""},
	{"D11", "a database is put back to a copy", ""},
	{"D12", "failover to a replica without the branch", "as D09 and D11"},
	{"D13", "failover to a replica with the branch, the old primary returns", ""},
	{"D14", "no more prepared transactions", ""},
	{"D15", "lock waits and deadlocks", ""},
	{"D16", "a user without the rights", "TestMySQLUserWithoutThePrivilegeIsNotFit"},
	{"D17", "prepared transactions of others", ""},
	{"D18", "MariaDB with a binlog, killed in XA COMMIT", ""},
	{"D19", "Galera or group replication", ""},
	{"D20", "DDL on a table with a prepared branch", ""},
	{"D21", "crash of the embedded store at every operation", "TestCrashAnywhereKeepsExactlyWhatWasTold"},
	{"H01", "an administrator commits, decided commit", ""},
	{"H02", "an administrator commits, decided abort", ""},
	{"H03", "an administrator rolls back, decided commit", ""},
	{"H04", "an administrator acts before the decision", ""},
	{"H05", "an operator resolves", ""},
	{"H06", "a resource with branches is taken out of the configuration", "tests/operator"},
	{"H07", "a heuristic outcome is forgotten", ""},
	{"H08", "the cluster is lost, a new one is made", "TestEveryBranchThatIsReportedHasACommand"},
	{"R01", "20,000 prepared branches, everything killed", "concord-bench recovery"},
	{"R02", "one of them can never finish", "concord-bench recovery"},
	{"R03", "a damaged record of one transaction", "wal"},
	{"R04", "100,000 tombstones and a restart", "concord-bench history"},
	{"R05", "scans beside live load", ""},
	{"R06", "killed again while it recovers", ""},
	{"R07", "a writer waits for a branch in doubt", "tests/e2e"},
	{"L01", "leader killed: Begin received", ""},
	{"L02", "leader killed: on its disk only", ""},
	{"L03", "leader killed: some votes", ""},
	{"L04", "leader killed: all votes, nothing logged", ""},
	{"L05", "leader killed: decided on its disk only", ""},
	{"L06", "and it returns with a tail that nobody has", ""},
	{"L07", "leader killed: decided, client not told", ""},
	{"L08", "leader killed: told, branches not ended", ""},
	{"L09", "leader killed: all ended, End not logged", ""},
	{"L11", "every new leader killed", ""},
	{"L12", "leader stopped, replaced, goes on", ""},
	{"L13", "and is asked for outcomes", ""},
	{"L14", "leader stopped half of the time", ""},
	{"L15", "leader's disk is slow", "TestALeaderWhoseDiskStallsIsReplacedAndFollowsWhenItIsBack"},
	{"L16", "a sync fails", "TestAWriteErrorEndsTheProcessAndKeepsItsPromises"},
	{"L17", "leader's disk is full", ""},
	{"L18", "out of memory", ""},
	{"L19", "SIGTERM to the leader", ""},
	{"F01", "follower killed", ""},
	{"F02", "both followers killed", ""},
	{"F03", "all killed at once", ""},
	{"F05", "a follower's disk is erased", ""},
	{"F06", "a follower's disk is set back", "TestDirectoryThatWasSetBackIsKeptOut"},
	{"F07", "a flipped bit in the log", "TestAFlippedBitAnywhereIsReportedOrHarmless"},
	{"F10", "two processes on one directory", "TestSecondProcessWithTheSameIDIsKeptOut"},
	{"F11", "behind the start of the log: a snapshot", ""},
	{"F12", "rolling restart under load", ""},
	{"N01", "leader isolated, clients reach it", ""},
	{"N02", "leader does not reach one follower", ""},
	{"N03", "leader hears nobody", ""},
	{"N04", "followers do not reach each other", ""},
	{"N05", "agent cut off", ""},
	{"N06", "database cut off", ""},
	{"N07", "client cut off", ""},
	{"N08", "links flap", ""},
	{"N09", "black hole without reset", ""},
	{"N10", "slow links", ""},
	{"N11", "late bytes of old connections", ""},
	{"N13", "a duplicate node id", "TestSecondProcessWithTheSameIDIsKeptOut"},
	{"N14", "certificates change", "tests/attack"},
	{"A01", "agent killed before or in its work", ""},
	{"A03", "agent killed in PREPARE", ""},
	{"A04", "agent killed: prepared, vote not sent", ""},
	{"A05", "agent killed after its vote", ""},
	{"A06", "agent killed in COMMIT", ""},
	{"A07", "agent killed: ended, not reported", ""},
	{"T03", "all nodes stopped", ""},
}

// count is what was met of a cell, and how to say it.
type count struct {
	n    int
	unit string
}

// met counts, for each cell, what the run has met.
func (w *world) met(truncated, snapshots int) map[string]count {
	met := map[string]count{}
	for _, f := range faults {
		for _, id := range f.cells {
			c := met[id]
			met[id] = count{c.n + w.ran[f.name], "times"}
		}
	}
	// A kill of the leader meets a stage if something was in that stage.
	var kills []int64
	for _, m := range w.moments {
		if m.what == "leader killed" {
			kills = append(kills, m.at)
		}
	}
	type span struct {
		asked, told int64
		outcome     string
	}
	spans := map[string]*span{}
	deadlocks, both, late, strangers, again := 0, 0, 0, 0, 0
	for _, r := range w.history.records {
		if r.Key != "" {
			if r.Op == told && r.Outcome == committed {
				again++
			}
			continue
		}
		switch r.Op {
		case asked:
			spans[r.GID] = &span{asked: r.At}
		case told:
			if s := spans[r.GID]; s != nil {
				s.told, s.outcome = r.At, r.Outcome
			}
			if strings.HasPrefix(r.Error, "deadlock: ") || strings.Contains(r.Error, "lock timeout") ||
				strings.Contains(r.Error, "Lock wait timeout") {
				deadlocks++
			}
			switch r.Kind {
			case "both":
				both++
			case "late":
				late++
			case "stranger":
				strangers++
			}
		}
	}
	var open, abortedThen, committedThen, toldBefore int
	for _, s := range spans {
		for _, at := range kills {
			switch {
			case s.asked < at && (s.told == 0 || s.told > at):
				open++
				if s.outcome == committed {
					committedThen++
				}
				if s.outcome == aborted {
					abortedThen++
				}
			case s.told < at && at-s.told < 20e6 && s.outcome == committed:
				toldBefore++
			}
		}
	}
	const under = "commits under way at a kill"
	for _, id := range []string{"L01", "L02"} {
		met[id] = count{open, under}
	}
	met["L03"], met["L04"] = count{abortedThen, under + ", aborted"}, count{abortedThen, under + ", aborted"}
	met["L05"], met["L07"] = count{committedThen, under + ", committed"}, count{committedThen, under + ", committed"}
	met["L08"], met["L09"] = count{toldBefore, "told within 20 ms before a kill"}, count{toldBefore,
		"told within 20 ms before a kill"}
	met["L06"], met["F11"] = count{truncated, "logs cut back"}, count{snapshots, "snapshots sent"}
	met["K05"], met["K06"] = count{both, "transactions"}, count{late, "transactions"}
	met["K07"], met["D15"] = count{strangers, "transactions"}, count{deadlocks, "lock timeouts and deadlocks"}
	met["D17"] = count{len(canaries), "untouched"}
	met["R05"] = count{w.history.commits, "commits beside a scan each second"}
	met["K03"] = count{met["K03"].n + again, "lost answers and repeated requests"}
	met["H07"] = count{w.forgotten, "forgotten"}
	met["D11"] = count{w.putBack, "times"}
	return met
}

// matrix is the table: pass, fail, or not run. A run that is wrong anywhere passes no cell.
func matrix(met map[string]count, ok bool) (text string, run int) {
	var b strings.Builder
	b.WriteString("| cell | what | result | met |\n|---|---|---|---|\n")
	for _, c := range cells {
		result, how := "not run", c.elsewhere
		if m := met[c.id]; m.n > 0 {
			run++
			if result, how = "pass", fmt.Sprintf("%d %s", m.n, m.unit); !ok {
				result = "fail"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", c.id, c.what, result, how)
	}
	return b.String(), run
}
