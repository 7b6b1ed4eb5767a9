// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// scope names the program to OpenTelemetry.
	scope = "github.com/concordtx/concord"
	// maxQueue spans wait; one more is dropped, and counted. maxBatch go out together, after interval at the latest.
	maxQueue = 2048
	maxBatch = 512
	interval = 2 * time.Second
	// exportTime bounds one attempt, unless the environment says otherwise, and patience all attempts for one batch.
	exportTime = 10 * time.Second
	patience   = time.Minute
	// flushTime is how long the program waits at its end.
	flushTime = 3 * time.Second
)

// Exporter sends spans to a collector.
type Exporter struct {
	url      string // which may hold a secret, and is shown to nobody
	host     string // of it
	header   http.Header
	client   *http.Client
	resource *resource.Resource
	log      *slog.Logger
	queue    chan *trace.Span // capacity maxQueue; when full, a span is dropped
	dropped  atomic.Int64
	flush    time.Duration // how long the export of what is left may take
}

// Config is what an Exporter is told beside the environment.
type Config struct {
	// Endpoint is the URL of a collector, to which /v1/traces is added; empty: that of the environment, if any.
	Endpoint string
	// Service and Instance say who exports: the kind of program, and which of them.
	Service, Instance string
	Log               *slog.Logger
}

// Open reads the environment of OpenTelemetry. It returns nil if neither that nor c names a collector, or if it is
// switched off there.
func Open(c Config) (*Exporter, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, nil
	}
	key, endpoint := "tracing.endpoint", c.Endpoint
	if endpoint == "" {
		key, endpoint = variable("ENDPOINT")
	}
	if endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%s: it is not the URL of a collector, such as http://127.0.0.1:4318", key)
	case u.User != nil:
		return nil, fmt.Errorf("%s: it has a user or a password in it: give these in "+
			"OTEL_EXPORTER_OTLP_HEADERS", key)
	case key != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": // which is taken as it is
		u = u.JoinPath("v1", "traces")
	}
	if key, p := variable("PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, fmt.Errorf("%s: only http/protobuf is spoken here: give that, and the port of the collector "+
			"for it, which is 4318 by custom", key)
	}
	e := &Exporter{url: u.String(), host: u.Host, log: cmp.Or(c.Log, slog.Default()),
		queue: make(chan *trace.Span, maxQueue), flush: flushTime,
		header: http.Header{"Content-Type": {"application/x-protobuf"}}}
	if err := errors.Join(e.readHeaders(), e.readClient(), e.readResource(c)); err != nil {
		return nil, err
	}
	return e, nil
}

// variable returns a setting of the exporter: one for traces alone goes before that for all signals.
func variable(name string) (key, value string) {
	key = "OTEL_EXPORTER_OTLP_TRACES_" + name
	if value = os.Getenv(key); value == "" {
		key = "OTEL_EXPORTER_OTLP_" + name
		value = os.Getenv(key)
	}
	return key, value
}

// readHeaders reads what is sent with each request, which may be a secret: no error shows it.
func (e *Exporter) readHeaders() error {
	key, list := variable("HEADERS")
	pairs, err := pairsOf(key, list)
	for _, p := range pairs {
		e.header.Set(p[0], p[1])
	}
	return err
}

func (e *Exporter) readClient() error {
	e.client = &http.Client{Timeout: exportTime, // a redirect would be sent what is for the collector alone
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if key, ms := variable("TIMEOUT"); ms != "" {
		n, err := strconv.Atoi(ms)
		if err != nil || n <= 0 {
			return fmt.Errorf("%s: %.20q is not a number of milliseconds, such as 10000", key, ms)
		}
		e.client.Timeout = time.Duration(n) * time.Millisecond
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		ForceAttemptHTTP2: true}
	if key, file := variable("CERTIFICATE"); file != "" {
		pem, err := os.ReadFile(file) // #nosec G304 G703 -- a file that the administrator names
		if err != nil {
			return fmt.Errorf("%s: %w: name a file with the certificates of the authority", key, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: %s has no certificate: name a file with those of the authority, in PEM", key, file)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	e.client.Transport = transport
	return nil
}

func (e *Exporter) readResource(c Config) error {
	const key = "OTEL_RESOURCE_ATTRIBUTES"
	pairs, err := pairsOf(key, os.Getenv(key))
	if err != nil {
		return err
	}
	service := os.Getenv("OTEL_SERVICE_NAME")
	e.resource = &resource.Resource{}
	pairs = append(pairs, [2]string{"service.name", c.Service}, [2]string{"service.instance.id", c.Instance})
	for _, p := range pairs {
		if p[0] == "service.name" && service != "" {
			continue
		}
		e.say(p[0], p[1])
	}
	e.say("service.name", service)
	return nil
}

// say gives the resource an attribute, unless it has it.
func (e *Exporter) say(key, value string) {
	for _, a := range e.resource.GetAttributes() {
		if a.GetKey() == key {
			return
		}
	}
	if value != "" {
		e.resource.Attributes = append(e.resource.Attributes, text(key, value))
	}
}

// pairsOf reads a list such as a=b,c=d%20e, and shows nothing of it.
func pairsOf(key, list string) (pairs [][2]string, err error) {
	for part := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, value, found := strings.Cut(part, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !found || name == "" || err != nil {
			return nil, fmt.Errorf("%s: it is not a list such as name=value,other=value: correct it, with %%2C for a "+
				"comma in a value", key)
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

// take has a span exported, if there is room.
func (e *Exporter) take(s *trace.Span) {
	select {
	case e.queue <- s:
	default:
		e.dropped.Add(1)
	}
}

// While exports as long as do works, and then what is left, for a few seconds at most.
func (e *Exporter) While(do func() error) error {
	if e == nil {
		return do()
	}
	ctx, giveUp := context.WithCancel(context.Background())
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); e.run(ctx, stop) }()
	defer func() {
		close(stop)
		timer := time.AfterFunc(e.flush, giveUp)
		<-ended
		timer.Stop()
		giveUp()
		e.client.CloseIdleConnections()
	}()
	return do()
}

// run exports batches until stop is closed, and then what is left until ctx ends.
func (e *Exporter) run(ctx context.Context, stop <-chan struct{}) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var batch []*trace.Span
	for stopped := false; !stopped; {
		due := false
		select {
		case s := <-e.queue:
			batch = append(batch, s)
			due = len(batch) == maxBatch
		case <-ticker.C:
			due = true
		case <-stop:
			stopped = true
		}
		if due {
			e.export(ctx, batch)
			batch = nil
		}
	}
	for len(batch)+len(e.queue) > 0 {
		for len(batch) < maxBatch && len(e.queue) > 0 {
			batch = append(batch, <-e.queue)
		}
		e.export(ctx, batch)
		batch = nil
	}
}

// export sends a batch. What the collector does not take within its time is lost, and that is said.
func (e *Exporter) export(ctx context.Context, batch []*trace.Span) {
	if n := e.dropped.Swap(0); n > 0 {
		e.log.Warn("spans were dropped: the collector is slower than they come", "spans", n)
	}
	if len(batch) == 0 {
		return
	}
	body, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource:   e.resource,
		ScopeSpans: []*trace.ScopeSpans{{Scope: &common.InstrumentationScope{Name: scope}, Spans: batch}}}}})
	if err == nil {
		var last error // which says more than that the time is over
		_, err = backoff.Retry(ctx, func() (struct{}, error) { last = e.send(ctx, body); return struct{}{}, last },
			backoff.WithMaxElapsedTime(patience))
		err = cmp.Or(last, err)
	}
	if err != nil {
		e.log.Warn("spans were not exported, and are lost: look at the collector", "collector", e.host, "spans",
			len(batch), "err", err)
	}
}

// send makes one attempt. Which answers are worth another one is said in the specification of OTLP.
func (e *Exporter) send(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	r.Header = e.header.Clone()
	res, err := e.client.Do(r)
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		err = failed.Err // without the URL
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // so that the connection can be used again
	switch res.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("the collector answered %s", res.Status)
	}
	return backoff.Permanent(fmt.Errorf("the collector answered %s", res.Status))
}
