// SPDX-License-Identifier: Apache-2.0

package said

import (
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextsAreFoundWhereErrorsAreMade(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "", `package p
var errOne = errors.New("one")
func nextStep() string { return "two" }
func f() error {
	step := "three"
	_ = finding{Fix: "four" + x}
	_ = usagef("five %d", 5)
	c.refuse(call, refused, "nine %d", 9, "not this one")
	_ = &ExitError{Code: 1, Text: fmt.Sprintf("six" + " and more")}
	_ = &terminal.ExitError{Code: 1, Text: "seven"}
	log("not this one")
	_ = txn.Refusedf("ten: %s", "not this one")
	return fmt.Errorf("eight: %w", err)
}`, 0)
	require.NoError(t, err)
	var found []string
	for _, e := range texts(f, []string{"usagef", "refuse"}) {
		found = append(found, textOf(e))
	}
	require.ElementsMatch(t, []string{"one", "two", "three", "four%v", "five %d", "six and more", "seven", "eight: %w",
		"nine %d", "ten: %s"}, found)
}

func TestARowSaysATextIfItHasAllItsWordsInOrder(t *testing.T) {
	rows := []string{`open "x": no such file: give another one`, "100% of it"}
	for text, want := range map[string]bool{
		"open %q: %w: give another one": true,
		"open %q: %w":                   true,
		"open %q: %w: give up":          false,
		"give %s open %q":               false,
		"%d%% of it":                    true,
		"close %q":                      false,
	} {
		require.Equal(t, want, saidBy(text, rows), text)
	}
	require.Equal(t, 0, letters("%w: %w"))
	require.Equal(t, 5, letters("begin %s: %-10.3f"))
}
