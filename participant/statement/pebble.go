// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/pebble"
)

// Pebble makes the branches of an embedded store take commands, which are a verb and a word for
// each of its operands: the operand itself, or ? for the next argument.
//
//	get KEY          one row with the value as bytes, or none
//	set KEY VALUE
//	add KEY NUMBER   adds to a number in decimal digits, 0 if there is none; one row with the sum
//	delete KEY       affects one row, or none
//
// Each locks its key until the branch ends.
func Pebble(r *pebble.Resource) Database {
	return database{r, func(s adapters.Session) executor { return &pebbleExecutor{r: r, s: s} }}
}

// pebbleExecutor undoes work back to a savepoint by itself: the store has none. The locks of the
// keys stay with the branch, so the before images stay true.
type pebbleExecutor struct {
	r      *pebble.Resource
	s      adapters.Session
	undo   []image // of all changes since the first savepoint, the oldest first
	points []point
}

type image struct {
	key, value []byte
	present    bool
}

type point struct {
	name string
	undo int // how many changes were made before it
}

// pebbleOperands is how many each verb has.
var pebbleOperands = map[string]int{"get": 1, "set": 2, "add": 2, "delete": 1}

func (e *pebbleExecutor) refuse(text string) error {
	words := strings.Fields(text)
	if len(words) == 0 {
		return refusedEmpty
	}
	if n, ok := pebbleOperands[words[0]]; !ok || len(words) != n+1 {
		return refusal(fmt.Sprintf("%.60q is not a command of this store: it was not carried out; want get KEY, "+
			"set KEY VALUE, add KEY NUMBER or delete KEY, each operand a word or ?", text))
	}
	return nil
}

func (e *pebbleExecutor) execute(ctx context.Context, w Work, limits Limits) (Result, error) {
	words := strings.Fields(w.Text)
	operands, err := pebbleArguments(words[1:], w.Args)
	if err != nil {
		return Result{}, err
	}
	tx, err := e.r.Tx(ctx, enlisted{e.s})
	if err != nil {
		return Result{}, err
	}
	before, err := e.lock(ctx, tx, operands[0])
	if err != nil {
		return Result{}, err
	}
	r := Result{}
	switch words[0] {
	case "get":
		r.Columns = []Column{{Name: "value", Type: "bytes"}}
		if before.present {
			err = r.add([]Value{OfBytes(before.value)}, &limits)
		}
		return r, err
	case "set":
		r.Affected = 1
		return r, e.set(ctx, tx, before, operands[1])
	case "add":
		sum, err := sumOf(before, operands[1])
		if err != nil {
			return Result{}, err
		}
		r.Affected, r.Columns, r.Rows = 1, []Column{{Name: "sum", Type: "int"}}, [][]Value{{OfInt(sum)}}
		return r, e.set(ctx, tx, before, strconv.AppendInt(nil, sum, 10))
	}
	if before.present {
		r.Affected = 1
		e.remember(before)
		err = tx.Delete(ctx, before.key)
	}
	return r, err
}

func pebbleArguments(words []string, args []Value) (operands [][]byte, err error) {
	wanted := 0
	for _, w := range words {
		if w != "?" {
			operands = append(operands, []byte(w))
			continue
		}
		if wanted++; wanted > len(args) {
			continue // counted below
		}
		v := args[wanted-1]
		if v.Kind == Null {
			return nil, refusal("an operand is null: the command was not carried out; give a value, or delete the key")
		}
		operands = append(operands, []byte(v.Text))
	}
	if wanted != len(args) {
		return nil, refusal(fmt.Sprintf("the command has %d places for arguments and got %d: it was not carried "+
			"out; send as many as it has ?", wanted, len(args)))
	}
	return operands, nil
}

func sumOf(before image, delta []byte) (int64, error) {
	d, err := strconv.ParseInt(string(delta), 10, 64)
	if err != nil {
		return 0, refusal(fmt.Sprintf("%.40q is not a 64-bit integer: the command was not carried out; send one",
			delta))
	}
	n := int64(0)
	if before.present {
		if n, err = strconv.ParseInt(string(before.value), 10, 64); err != nil {
			return 0, refusal(fmt.Sprintf("the value of %.40q is not a number: the command was not carried out; "+
				"use set",
				before.key))
		}
	}
	if d > 0 && n > math.MaxInt64-d || d < 0 && n < math.MinInt64-d {
		return 0, refusal(fmt.Sprintf("%d and %d have a sum beyond 64 bits: the command was not carried out; add "+
			"less", n,
			d))
	}
	return n + d, nil
}

// lock takes the key for the branch and returns what is there.
func (e *pebbleExecutor) lock(ctx context.Context, tx *pebble.Tx, key []byte) (image, error) {
	value, present, err := tx.Get(ctx, key)
	return image{key: bytes.Clone(key), value: value, present: present}, err
}

func (e *pebbleExecutor) set(ctx context.Context, tx *pebble.Tx, before image, value []byte) error {
	e.remember(before)
	return tx.Set(ctx, before.key, value)
}

func (e *pebbleExecutor) remember(before image) {
	if len(e.points) > 0 {
		e.undo = append(e.undo, before)
	}
}

func (e *pebbleExecutor) savepoint(_ context.Context, name string) error {
	e.points = append(slices.DeleteFunc(e.points, func(p point) bool { return p.name == name }),
		point{name, len(e.undo)})
	return nil
}

func (e *pebbleExecutor) rollbackTo(ctx context.Context, name string) error {
	tx, err := e.r.Tx(ctx, enlisted{e.s})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(e.points, func(p point) bool { return p.name == name }) // session has seen that it is there
	for _, b := range slices.Backward(e.undo[e.points[i].undo:]) {
		if b.present {
			err = tx.Set(ctx, b.key, b.value)
		} else {
			err = tx.Delete(ctx, b.key)
		}
		if err != nil {
			return err
		}
	}
	e.undo, e.points = e.undo[:e.points[i].undo], e.points[:i+1]
	return nil
}
