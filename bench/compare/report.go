// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/concordtx/concord/bench/meter"
)

// report collects the rounds.
type report struct {
	options options
	rounds  map[string]map[int][]figures // by system and clients
	why     map[string]string            // a system has no result
}

func newReport(o options) *report {
	return &report{options: o, rounds: map[string]map[int][]figures{}, why: map[string]string{}}
}

func (r *report) add(system string, clients int, f figures) {
	if r.rounds[system] == nil {
		r.rounds[system] = map[int][]figures{}
	}
	r.rounds[system][clients] = append(r.rounds[system][clients], f)
}

// notRun says why a system has no result. What it did before does not count either.
func (r *report) notRun(system string, why error) { r.why[system] = why.Error() }

func (r *report) failed(system string) bool { return r.why[system] != "" }

// row is one number of clients on one system. Rates and latencies are medians of the rounds.
type row struct {
	Clients   int     `json:"clients"`
	System    string  `json:"system"`
	Size      int     `json:"size"`
	Rounds    int     `json:"rounds"`
	PerSecond float64 `json:"per_second"`
	Lowest    float64 `json:"per_second_min"`
	Highest   float64 `json:"per_second_max"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Errors    int64   `json:"errors"`
	// Ratio is PerSecond to that of the best of the other systems; 0 if none has a result.
	Ratio  float64 `json:"ratio_to_best_other"`
	NotRun string  `json:"not_run,omitempty"`
}

func (r *report) rows() (rows []row) {
	for _, clients := range r.options.clients {
		first := len(rows)
		for _, system := range r.options.systems {
			rows = append(rows, r.row(system, clients))
		}
		compareWithOthers(rows[first:])
	}
	return rows
}

func (r *report) row(system string, clients int) row {
	one := row{Clients: clients, System: system, Size: r.options.size, NotRun: r.why[system]}
	if one.NotRun != "" {
		return one
	}
	var rates, p50, p99 []float64
	for _, f := range r.rounds[system][clients] {
		rates, p50, p99 = append(rates, f.perSecond), append(p50, f.p50), append(p99, f.p99)
		one.Errors += f.errors
	}
	one.Rounds = len(rates)
	one.PerSecond, one.Lowest, one.Highest = meter.Median(rates), slices.Min(rates), slices.Max(rates)
	one.P50, one.P99 = meter.Median(p50), meter.Median(p99)
	return one
}

func compareWithOthers(rows []row) {
	for i := range rows {
		best := 0.0
		for j := range rows {
			if j != i {
				best = max(best, rows[j].PerSecond)
			}
		}
		if best > 0 && rows[i].NotRun == "" {
			rows[i].Ratio = rows[i].PerSecond / best
		}
	}
}

func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLIENTS\tSYSTEM\tPER SECOND\tLOWEST\tHIGHEST\tP50 MS\tP99 MS\tERRORS\tTO BEST OTHER")
	for _, one := range r.rows() {
		if one.NotRun != "" {
			fmt.Fprintf(t, "%d\t%s\tNOT RUN\t\t\t\t\t\t\n", one.Clients, one.System)
			continue
		}
		fmt.Fprintf(t, "%d\t%s\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%d\t%.2f\n", one.Clients, one.System,
			one.PerSecond, one.Lowest, one.Highest, one.P50, one.P99, one.Errors, one.Ratio)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d-byte values, medians of %d rounds of %v; TO BEST OTHER: per second, to the best of the "+
		"other systems\n",
		r.options.size, r.options.rounds, r.options.duration)
	for _, system := range r.options.systems {
		if why := r.why[system]; why != "" {
			fmt.Fprintf(w, "%s: NOT RUN: %s\n", system, strings.TrimSpace(why))
		}
	}
	return nil
}
