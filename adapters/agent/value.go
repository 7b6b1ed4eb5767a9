// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// Decimal is a number in decimal digits, of any size and precision.
type Decimal string

// Time is a date, a time of day or both, in the text of RFC 3339, with an offset only if the
// database keeps one.
type Time string

// toValue makes a message of an argument: nil, bool, any integer, float, string, []byte, time.Time,
// Decimal, Time, json.RawMessage, or a type of one of these kinds.
func toValue(a any) (*concordv1.Value, error) {
	switch a := a.(type) {
	case nil:
		return &concordv1.Value{}, nil
	case *concordv1.Value:
		return a, nil
	case Decimal:
		return &concordv1.Value{Kind: &concordv1.Value_Decimal{Decimal: string(a)}}, nil
	case Time:
		return &concordv1.Value{Kind: &concordv1.Value_Time{Time: string(a)}}, nil
	case time.Time:
		return &concordv1.Value{Kind: &concordv1.Value_Time{Time: a.Format(time.RFC3339Nano)}}, nil
	case json.RawMessage:
		return &concordv1.Value{Kind: &concordv1.Value_Json{Json: string(a)}}, nil
	case []byte:
		return &concordv1.Value{Kind: &concordv1.Value_Bytes{Bytes: a}}, nil
	}
	switch v := reflect.ValueOf(a); v.Kind() {
	case reflect.Bool:
		return &concordv1.Value{Kind: &concordv1.Value_Bool{Bool: v.Bool()}}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &concordv1.Value{Kind: &concordv1.Value_Int{Int: v.Int()}}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &concordv1.Value{Kind: &concordv1.Value_Uint{Uint: v.Uint()}}, nil
	case reflect.Float32, reflect.Float64:
		return &concordv1.Value{Kind: &concordv1.Value_Float{Float: v.Float()}}, nil
	case reflect.String:
		return &concordv1.Value{Kind: &concordv1.Value_Text{Text: v.String()}}, nil
	}
	return nil, fmt.Errorf("an argument of type %T cannot be sent: use nil, bool, a number, string, []byte, "+
		"time.Time, agent.Decimal, agent.Time or json.RawMessage", a)
}

// fromValue returns nil, bool, int64, uint64, float64, Decimal, string, []byte, Time or
// json.RawMessage.
func fromValue(m *concordv1.Value) any {
	switch k := m.GetKind().(type) {
	case *concordv1.Value_Bool:
		return k.Bool
	case *concordv1.Value_Int:
		return k.Int
	case *concordv1.Value_Uint:
		return k.Uint
	case *concordv1.Value_Float:
		return k.Float
	case *concordv1.Value_Decimal:
		return Decimal(k.Decimal)
	case *concordv1.Value_Text:
		return k.Text
	case *concordv1.Value_Bytes:
		return k.Bytes
	case *concordv1.Value_Time:
		return Time(k.Time)
	case *concordv1.Value_Json:
		return json.RawMessage(k.Json)
	}
	return nil
}
