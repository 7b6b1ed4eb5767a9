// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/security"
)

const rulesDir = "../../deploy/prometheus"

// alert is one of the rules.
type alert struct{ name, expr, severity, runbook string }

var alertRule = regexp.MustCompile(`(?m)^      - alert: (\w+)
        expr: (.*)
(?:        for: \w+
)?        labels: \{severity: (\w+)\}
        annotations:
          summary: .*
          runbook_url: (.*)
`)

func alerts(t testing.TB) (all []alert) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(rulesDir, "concord.rules.yml"))
	require.NoError(t, err)
	for _, m := range alertRule.FindAllStringSubmatch(string(text), -1) {
		all = append(all, alert{m[1], m[2], m[3], m[4]})
	}
	require.Len(t, all, strings.Count(string(text), "- alert:"), "a rule has another form than the others")
	require.NotEmpty(t, all)
	return all
}

func TestTheAlertRulesPassTheirTests(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "concord.rules.yml"}, {"test", "rules", "concord.test.yml"}} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, promtool(t), args...)
		cmd.Dir = rulesDir
		r := exited(t, cmd)
		cancel()
		require.Equal(t, 0, r.code, "%v", r)
	}
	text, err := os.ReadFile(filepath.Join(rulesDir, "concord.test.yml"))
	require.NoError(t, err)
	for _, a := range alerts(t) {
		require.Contains(t, string(text), "\n        alertname: "+a.name+"\n        exp_alerts:\n          - ",
			"no test has it ring")
		require.Contains(t, string(text), "alertname: "+a.name+", eval_time: 1h, exp_alerts: []}",
			"no test has it silent")
	}
}

// Whoever is woken up follows the link of the alert.
func TestEveryAlertHasItsEntryInThePage(t *testing.T) {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	entries := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^### (Concord\w+)$`).FindAllStringSubmatch(string(text), -1) {
		_, rest, _ := strings.Cut(string(text), "### "+m[1]+"\n")
		rest, _, _ = strings.Cut(rest, "\n#")
		entries[m[1]] = strings.TrimSpace(rest)
	}
	for _, a := range alerts(t) {
		require.NotEmpty(t, entries[a.name], "the page says nothing about %s", a.name)
		require.True(t, strings.HasSuffix(a.runbook, "/docs/operations.md#"+strings.ToLower(a.name)), a.runbook)
		require.Contains(t, []string{"warning", "critical"}, a.severity)
		delete(entries, a.name)
	}
	require.Empty(t, entries, "there are no such alerts")
	// Links within the page lead somewhere.
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		anchors[strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(string(text), -1) {
		require.True(t, anchors[m[1]], "no heading is #%s", m[1])
	}
}

// An alert on a metric that no node shows never rings.
func TestEveryAlertIsAboutMetricsThatARealNodeShows(t *testing.T) {
	d := newDatabase(t, server(t, flavors[0]))
	certs := security.Dir(t.TempDir())
	authority, err := security.NewAuthority(certs, filepath.Join(t.TempDir(), "ca.key"), "shop",
		security.AuthorityLifetime, false)
	require.NoError(t, err)
	for _, id := range []string{"1", "2"} {
		_, err = authority.Issue(certs, security.Node, id, []string{"127.0.0.1"}, security.CertificateLifetime, true)
		require.NoError(t, err)
	}
	_, err = authority.Issue(certs, security.Client, "prometheus", nil, security.CertificateLifetime, true)
	require.NoError(t, err)
	c := newCluster(t, 2, quick+"certs_dir: "+string(certs)+
		"\nauth: {grants: [{subject: prometheus, roles: [viewer]}]}\n", d.resource())
	for _, n := range c.nodes {
		c.start(n)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(string(certs), "client.prometheus.crt"),
		filepath.Join(string(certs), "client.prometheus.key"))
	require.NoError(t, err)
	ca, err := os.ReadFile(filepath.Join(string(certs), "ca.crt"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	scraper := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
	defer scraper.CloseIdleConnections()
	var shown string
	eventually(t, "the leader has listed the database", func() bool {
		res, err := scraper.Get("https://" + c.nodes[0].api + "/metrics")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		shown = "\n" + string(text)
		return res.StatusCode == http.StatusOK && strings.Contains(shown, "\nconcord_resource_listed_age_seconds{") &&
			strings.Contains(shown, "\nconcord_member_reachable{")
	})
	for _, a := range alerts(t) {
		names := regexp.MustCompile(`concord_\w+`).FindAllString(a.expr, -1)
		require.NotEmpty(t, names, a.name)
		for _, name := range names {
			require.Regexp(t, `(?m)^`+name+`[{ ]`, shown, "%s", a.name)
		}
	}
}
