// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/internal/said"
)

const (
	parent    = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// receiver is a collector, as far as it goes by the specification.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	answers []int // to the next requests; none: 200
	headers []http.Header
	paths   []string
	got     []*otlp.ResourceSpans
	heard   chan struct{} // for each span
}

func newReceiver(t *testing.T, answers ...int) *receiver {
	for _, v := range []string{"SDK_DISABLED", "TRACES_EXPORTER", "SERVICE_NAME", "RESOURCE_ATTRIBUTES"} {
		t.Setenv("OTEL_"+v, "")
	}
	for _, v := range []string{"ENDPOINT", "HEADERS", "TIMEOUT", "PROTOCOL", "CERTIFICATE"} {
		t.Setenv("OTEL_EXPORTER_OTLP_"+v, "")
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_"+v, "")
	}
	r := &receiver{answers: answers, heard: make(chan struct{}, 10_000)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers, r.paths = append(r.headers, req.Header), append(r.paths, req.URL.Path)
	if len(r.answers) > 0 {
		code := r.answers[0]
		if r.answers = r.answers[1:]; code != http.StatusOK {
			http.Error(w, "not now", code)
			return
		}
	}
	body, err := io.ReadAll(req.Body)
	var m collector.ExportTraceServiceRequest
	if err = errors.Join(err, proto.Unmarshal(body, &m)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.got = append(r.got, m.GetResourceSpans()...)
	for range r.spans() {
		r.heard <- struct{}{}
	}
}

// spans are those of the last request.
func (r *receiver) spans() (all []*otlp.Span) {
	for _, s := range r.got[len(r.got)-1].GetScopeSpans() {
		all = append(all, s.GetSpans()...)
	}
	return all
}

func open(t *testing.T, c Config) *Exporter {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e, err := Open(c)
	require.NoError(t, err)
	require.NotNil(t, e)
	return e
}

func attributes(s *otlp.Span) map[string]string {
	m := map[string]string{}
	for _, a := range s.GetAttributes() {
		m[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return m
}

// What is there when the work ends goes out before the program does, and no goroutine is left.
func TestSpansReachACollector(t *testing.T) {
	r := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abc")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=other")
	t.Setenv("OTEL_SERVICE_NAME", "payments")
	before := goleak.IgnoreCurrent()
	e := open(t, Config{Endpoint: r.URL, Service: "concord", Instance: "7"})
	failed := errors.New("how the work ended")
	require.ErrorIs(t, e.While(func() error {
		s := e.Under(parent, "concord.decide", Server)
		s.Say("concord.gid", "01ABC")
		s.Say("nothing", "")
		s.End("")
		after := e.After(parent, "concord.commit", Client)
		require.Regexp(t, "^00-[0-9a-f]{32}-[0-9a-f]{16}-01$", after.Traceparent())
		after.End("timeout")
		e.After("", "concord.act", Server).End("")
		return failed
	}), failed)
	http.DefaultClient.CloseIdleConnections()
	r.Close()
	goleak.VerifyNone(t, before)

	require.Equal(t, []string{"/v1/traces"}, r.paths)
	require.Equal(t, "Bearer abc", r.headers[0].Get("Authorization"))
	require.Equal(t, "application/x-protobuf", r.headers[0].Get("Content-Type"))
	about := map[string]string{}
	for _, a := range r.got[0].GetResource().GetAttributes() {
		about[a.GetKey()] = a.GetValue().GetStringValue()
	}
	require.Equal(t, map[string]string{"deployment.environment.name": "test", "service.name": "payments",
		"service.instance.id": "7"}, about)
	spans := r.spans()
	require.Len(t, spans, 3)
	decide, commit, act := spans[0], spans[1], spans[2]
	of, err := trace.TraceIDFromHex(parent[3:35])
	require.NoError(t, err)
	by, err := trace.SpanIDFromHex(parent[36:52])
	require.NoError(t, err)
	require.Equal(t, of[:], decide.GetTraceId())
	require.Equal(t, by[:], decide.GetParentSpanId())
	require.Equal(t, map[string]string{"concord.gid": "01ABC"}, attributes(decide))
	require.Nil(t, decide.GetStatus())
	require.LessOrEqual(t, decide.GetStartTimeUnixNano(), decide.GetEndTimeUnixNano())
	require.NotEqual(t, of[:], commit.GetTraceId())
	require.Empty(t, commit.GetParentSpanId())
	require.Equal(t, of[:], commit.GetLinks()[0].GetTraceId())
	require.Equal(t, by[:], commit.GetLinks()[0].GetSpanId())
	require.Equal(t, otlp.Status_STATUS_CODE_ERROR, commit.GetStatus().GetCode())
	require.Equal(t, "timeout", attributes(commit)["error.type"])
	require.Empty(t, act.GetLinks())
	require.Len(t, act.GetTraceId(), 16)
}

func TestWhatNobodyWantsIsNoSpan(t *testing.T) {
	r := newReceiver(t)
	e := open(t, Config{Endpoint: r.URL})
	for _, s := range []*Span{e.Under("", "a", Server), e.Under(unsampled, "a", Server),
		e.Under(parent+"0", "a", Server),
		e.Under(strings.Replace(parent, "a", "x", 1), "a", Server), e.Under("01"+parent[2:], "a", Server),
		e.After(unsampled, "a", Client), (*Exporter)(nil).Under(parent, "a", Server),
		(*Exporter)(nil).After("", "a", Client)} {
		require.Nil(t, s)
		s.Say("a", "b")
		s.End("")
		require.Empty(t, s.Traceparent())
	}
	require.NoError(t, e.While(func() error { return nil }))
	require.Empty(t, r.paths)
	require.NoError(t, (*Exporter)(nil).While(func() error { return nil }))
}

// A batch that the collector has no time for is sent again; one that it refuses, or does not take for long, is lost,
// with a word in the log that shows neither headers nor what is in the URL.
func TestACollectorThatIsBusyRefusesOrIsGone(t *testing.T) {
	r := newReceiver(t, http.StatusServiceUnavailable, http.StatusTooManyRequests)
	e := open(t, Config{Endpoint: r.URL})
	require.NoError(t, e.While(func() error {
		e.After("", "a", Client).End("")
		<-r.heard
		return nil
	}))
	require.Len(t, r.paths, 3)

	for name, c := range map[string]struct{ answer, says string }{"refuses": {"", "the collector answered 401"},
		"gone": {"gone", "refused"}} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, http.StatusUnauthorized)
			if c.answer == "gone" {
				r.Close()
			}
			t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", r.URL+"/in/take?key=canary")
			t.Setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=canary")
			var log bytes.Buffer
			e := open(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
			e.flush = 500 * time.Millisecond
			require.NoError(t, e.While(func() error { e.After("", "a", Client).End(""); return nil }))
			require.Contains(t, log.String(), "spans were not exported, and are lost")
			require.Contains(t, log.String(), c.says)
			require.NotContains(t, log.String(), "canary")
		})
	}
}

func TestMoreSpansThanThereIsRoomForAreDroppedAndCounted(t *testing.T) {
	r := newReceiver(t)
	var log bytes.Buffer
	e := open(t, Config{Endpoint: r.URL, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range maxQueue + 5 {
		e.After("", "a", Client).End("")
	}
	require.NoError(t, e.While(func() error { return nil }))
	require.Len(t, r.heard, maxQueue)
	require.Len(t, r.paths, maxQueue/maxBatch)
	require.Contains(t, log.String(), "spans=5")
}

func TestItIsOffUnlessAskedFor(t *testing.T) {
	newReceiver(t)
	e, err := Open(Config{})
	require.NoError(t, err)
	require.Nil(t, e)
	for key, value := range map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none"} {
		t.Run(key, func(t *testing.T) {
			t.Setenv(key, value)
			e, err := Open(Config{Endpoint: "http://127.0.0.1:4318"})
			require.NoError(t, err)
			require.Nil(t, e)
		})
	}
}

func TestEveryErrorHasARow(t *testing.T) {
	newReceiver(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(empty, []byte("canary"), 0o600))
	var says []string
	for _, row := range []struct{ key, value, says string }{
		{"", "127.0.0.1:4318", "tracing.endpoint: it is not the URL of a collector, such as http://127.0.0.1:4318"},
		{"", "ftp://canary", "tracing.endpoint: it is not the URL of a collector, such as http://127.0.0.1:4318"},
		{"", "http://me:canary@host", "tracing.endpoint: it has a user or a password in it: give these in " +
			"OTEL_EXPORTER_OTLP_HEADERS"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://can ary", "OTEL_EXPORTER_OTLP_ENDPOINT: it is not the URL of a " +
			"collector, such as http://127.0.0.1:4318"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken here: " +
			"give that, and the port of the collector for it, which is 4318 by custom"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s", `OTEL_EXPORTER_OTLP_TIMEOUT: "10s" is not a number of milliseconds, ` +
			"such as 10000"},
		{"OTEL_EXPORTER_OTLP_TRACES_HEADERS", "canary", "OTEL_EXPORTER_OTLP_TRACES_HEADERS: it is not a list such as " +
			"name=value,other=value: correct it, with %2C for a comma in a value"},
		{"OTEL_RESOURCE_ATTRIBUTES", "a=%zz", "OTEL_RESOURCE_ATTRIBUTES: it is not a list such as " +
			"name=value,other=value: correct it, with %2C for a comma in a value"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", filepath.Join(dir, "none"), "OTEL_EXPORTER_OTLP_CERTIFICATE: open " +
			filepath.Join(dir, "none") + ": no such file or directory: name a file with the certificates of the " +
			"authority"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", empty, "OTEL_EXPORTER_OTLP_CERTIFICATE: " + empty +
			" has no certificate: name a file with those of the authority, in PEM"},
	} {
		c := Config{Endpoint: "http://127.0.0.1:4318"}
		if row.key == "" || strings.HasSuffix(row.key, "_ENDPOINT") {
			c.Endpoint = ""
		}
		if row.key == "" {
			c.Endpoint = row.value
		} else {
			t.Setenv(row.key, row.value)
		}
		_, err := Open(c)
		require.EqualError(t, err, row.says)
		if says = append(says, row.says); row.key != "" {
			t.Setenv(row.key, "")
		}
	}
	r := newReceiver(t, http.StatusBadRequest)
	require.EqualError(t, open(t, Config{Endpoint: r.URL}).send(t.Context(), nil),
		"the collector answered 400 Bad Request")
	says = append(says, "the collector answered 400 Bad Request")
	said.Check(t, says, map[string]string{})
}
