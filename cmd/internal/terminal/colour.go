// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"io"
	"os"
)

// Colour is how a text looks on a terminal.
type Colour string

// The colours that commands use.
const (
	Bold  Colour = "1"
	Red   Colour = "31"
	Green Colour = "32"
)

// wantsColours reports whether a person looks, on a terminal that has colours, and has not asked for none (NO_COLOR).
func wantsColours(to io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && IsTerminal(to)
}

// Paint writes a text in a colour if w is of Harmless and a terminal, and else as it is.
func Paint(w io.Writer, c Colour, text string) error {
	h, ok := w.(*harmless)
	if !ok || !h.colours {
		_, err := io.WriteString(w, text)
		return err
	}
	if _, err := io.WriteString(h.to, "\x1b["+string(c)+"m"); err != nil {
		return err
	}
	_, err := io.WriteString(h, text)
	if _, end := io.WriteString(h.to, "\x1b[0m"); err == nil {
		err = end
	}
	return err
}
