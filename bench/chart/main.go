// SPDX-License-Identifier: Apache-2.0

// Command chart draws measured figures as a bar chart, as the picture in
// docs/performance.md. Equal figures make equal text, so a picture changes only with them.
//
//	go run ./bench/chart -in bench/chart/transfer.json -out docs/transfer.svg
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"os"
	"strings"
)

// chart is the file that is drawn.
type chart struct {
	Title string `json:"title"`
	Note  string `json:"note"` // how it was measured
	Unit  string `json:"unit"`
	Rows  []row  `json:"rows"`
}

// row is one stacked bar.
type row struct {
	Name  string `json:"name"`
	Parts []part `json:"parts"`
}

type part struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

func main() {
	in := flag.String("in", "", "the figures, as JSON")
	out := flag.String("out", "", "where the SVG goes")
	flag.Parse()
	if err := run(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	var c chart
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	if err := c.check(); err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	return os.WriteFile(out, []byte(c.svg()), 0o644)
}

func (c chart) check() error {
	if c.longest() <= 0 {
		return errors.New("there is nothing to draw")
	}
	for _, r := range c.Rows {
		for _, p := range r.Parts {
			if p.Value < 0 {
				return fmt.Errorf("%s of %s is negative", p.Name, r.Name)
			}
		}
	}
	return nil
}

func (r row) sum() (sum float64) {
	for _, p := range r.Parts {
		sum += p.Value
	}
	return sum
}

func (c chart) longest() (longest float64) {
	for _, r := range c.Rows {
		longest = max(longest, r.sum())
	}
	return longest
}

// Sizes of the picture.
const (
	width, margin = 820.0, 20.0
	labels        = 150.0 // room for the names of the bars
	bar, gap      = 34.0, 16.0
	head, line    = 64.0, 18.0
)

// colors are told apart by people who see few.
var colors = []string{"#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#332288", "#88ccee",
	"#117733"}

// names are all parts, in the order in which they first appear; each has its color.
func (c chart) names() []string {
	var names []string
	seen := map[string]bool{}
	for _, r := range c.Rows {
		for _, p := range r.Parts {
			if !seen[p.Name] {
				seen[p.Name] = true
				names = append(names, p.Name)
			}
		}
	}
	return names
}

func (c chart) svg() string {
	names := c.names()
	color := map[string]string{}
	for i, name := range names {
		color[name] = colors[i%len(colors)]
	}
	scale := (width - 2*margin - labels - 60) / c.longest()
	height := head + float64(len(c.Rows))*(bar+gap) + line*float64((len(names)+1)/2) + margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" `+
		`font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="white"/>`+"\n", width, height)
	write(&b, margin, 26, `font-size="16" font-weight="bold"`, c.Title)
	write(&b, margin, 46, `fill="#555"`, c.Note)
	y := head
	for _, r := range c.Rows {
		write(&b, margin, y+bar/2+5, "", r.Name)
		x := margin + labels
		for _, p := range r.Parts {
			w := p.Value * scale
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.0f" fill="%s"/>`+"\n", x, y, w, bar,
				color[p.Name])
			if w > 30 {
				write(&b, x+w/2, y+bar/2+5, `text-anchor="middle" fill="white"`, fmt.Sprintf("%.0f", p.Value))
			}
			x += w
		}
		write(&b, x+6, y+bar/2+5, `font-weight="bold"`, fmt.Sprintf("%.0f %s", r.sum(), c.Unit))
		y += bar + gap
	}
	for i, name := range names {
		x, y := margin+float64(i%2)*(width-2*margin)/2, y+line*float64(i/2)
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="12" height="12" fill="%s"/>`+"\n", x, y, color[name])
		write(&b, x+18, y+11, "", name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func write(b *strings.Builder, x, y float64, style, text string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, style, html.EscapeString(text))
}
