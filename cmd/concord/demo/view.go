// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// view shows a running workload on a terminal.
type view struct {
	w      *workload
	events []string
	rates  []float64
	last   progress
	sum    string
	quit   context.CancelFunc
}

type (
	frameMsg time.Time
	doneMsg  struct{}
)

const shownEvents = 5

var (
	titleStyle = lipgloss.NewStyle().Bold(true)
	goodStyle  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	badStyle   = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	dimStyle   = lipgloss.NewStyle().Faint(true)
)

// runWithView runs the workload under a live view. q or ctrl+c stops it.
func (w *workload) runWithView(ctx context.Context, in io.Reader, out *os.File) (result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(&view{w: w, quit: cancel, sum: "adding up when it is quiet"}, tea.WithInput(in),
		tea.WithOutput(out), tea.WithContext(ctx))
	type outcome struct {
		result result
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		r, err := w.run(ctx)
		ended <- outcome{r, err}
		p.Send(doneMsg{})
	}()
	if _, err := p.Run(); err != nil && ctx.Err() == nil {
		cancel()
		<-ended
		return result{}, err
	}
	cancel()
	o := <-ended
	return o.result, o.err
}

func frame() tea.Cmd {
	return tea.Tick(200*time.Millisecond, func(t time.Time) tea.Msg { return frameMsg(t) })
}

func (v *view) Init() tea.Cmd { return frame() }

func (v *view) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.KeyPressMsg:
		if s := msg.String(); s == "q" || s == "ctrl+c" {
			v.quit()
			return v, tea.Quit
		}
	case frameMsg:
		v.advance()
		return v, frame()
	case doneMsg:
		v.advance()
		return v, tea.Quit
	}
	return v, nil
}

func (v *view) advance() {
	now := v.w.progress()
	if d := now.elapsed - v.last.elapsed; d > 0 {
		v.rates = append(v.rates, float64(now.committed-v.last.committed)/d.Seconds())
		v.rates = v.rates[max(0, len(v.rates)-50):]
	}
	v.last = now
	for {
		select {
		case e := <-v.w.events:
			v.events = append(v.events, fmt.Sprintf("%5.1fs  %s", now.elapsed.Seconds(), e))
			v.events = v.events[max(0, len(v.events)-shownEvents):]
			continue
		default:
		}
		return
	}
}

func (v *view) View() tea.View {
	var b strings.Builder
	p, s := v.last, v.w.cluster.snapshot()
	fmt.Fprintf(&b, "%s  %s\n\n", titleStyle.Render("concord demo"), dimStyle.Render(v.w.banks.describe()+"   q: stop"))
	for _, n := range s.Nodes {
		state := fmt.Sprintf("%-9s", n.State)
		switch {
		case !n.Reachable:
			state = badStyle.Render(fmt.Sprintf("%-9s", "dead"))
		case n.ID == s.Leader:
			state = goodStyle.Render(state)
		}
		fmt.Fprintf(&b, "  node %d  %s  %s  zxid %-12s lag %d\n", n.ID, n.API, state, n.Zxid, n.Lag)
	}
	fmt.Fprintf(&b, "\n  transfers  %d of %d   committed %d   aborted %d   unknown %d\n", p.done, v.w.o.Transfers,
		p.committed, p.aborted, p.unknown)
	fmt.Fprintf(&b, "  per second %.0f  %s\n", p.rate, sparkline(v.rates))
	fmt.Fprintf(&b, "  in doubt   %s\n", p.inDoubt)
	fmt.Fprintf(&b, "  sum        expected %d, %s\n\n", v.w.banks.expected(), v.sum)
	for _, e := range v.events {
		b.WriteString("  " + e + "\n")
	}
	return tea.NewView(b.String())
}

// sparkline draws values as a line of bars, the highest as a full one.
func sparkline(values []float64) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	highest := 1.0
	for _, v := range values {
		highest = max(highest, v)
	}
	var b strings.Builder
	for _, v := range values {
		b.WriteRune(bars[int(v/highest*float64(len(bars)-1))])
	}
	return b.String()
}
