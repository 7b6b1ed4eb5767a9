// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/concordtx/concord/cmd/internal/config"
)

// surviveSignals lets nothing end a node that means no harm: a terminal that is closed, the hint of
// a log rotator, the death of who reads the log. A program that is started in its place
// inherits that.
func surviveSignals() {
	signal.Ignore(append(hints(), syscall.SIGHUP, syscall.SIGPIPE)...)
}

// reloadOnHangup reads the configuration again at each SIGHUP, until ctx ends. A configuration that
// is wrong changes nothing.
func reloadOnHangup(ctx context.Context, running *config.Node, load func() (*config.Node, error), level *slog.LevelVar,
	doors *config.Opened, mayDrop func(...string) error, log *slog.Logger) {
	hangups := make(chan os.Signal, 1) // one that comes meanwhile is for the same file
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Ignore(syscall.SIGHUP)
	for {
		select {
		case <-hangups:
			running = reload(running, load, level, doors, mayDrop, log)
		case <-ctx.Done():
			return
		}
	}
}

// reload sets the log level and the grants, reads certificates and tokens, and says what needs a restart. It returns
// the configuration that is in force.
func reload(running *config.Node, load func() (*config.Node, error), level *slog.LevelVar, doors *config.Opened,
	mayDrop func(...string) error, log *slog.Logger) *config.Node {
	now, err := load()
	if err == nil {
		err = mayDrop(missing(running, now)...)
	}
	if err == nil {
		err = doors.Reload(now.Doors())
	}
	if err == nil {
		err = setLevel(level, now.Log.Level)
	}
	if err != nil {
		log.Error("the configuration was read again and is wrong: the node continues with the one it has", "err", err)
		doors.Later("its configuration was read again and is wrong, so it continues with the one it has: " +
			err.Error())
		return running
	}
	inForce := *running
	inForce.Log.Level, inForce.Auth.Grants = now.Log.Level, now.Auth.Grants
	if now.Doors().Secure() { // then these are in force, too
		inForce.CertsDir, inForce.Auth.Tokens = now.CertsDir, now.Auth.Tokens
		inForce.Peer.TLS, inForce.API.TLS = now.Peer.TLS, now.API.TLS
	}
	later := "none"
	doors.Later("")
	if keys := differing(&inForce, now); len(keys) > 0 {
		later = strings.Join(keys, ", ")
		doors.Later("changes of its configuration wait until it is started again: " + later)
	}
	log.Info("the configuration was read again", "log_level", now.Log.Level, "changes_that_need_a_restart", later)
	return &inForce
}

// missing names the resources that the new configuration does not have any more.
func missing(old, now *config.Node) (names []string) {
	for _, r := range old.Resources {
		if !slices.ContainsFunc(now.Resources, func(other config.Resource) bool { return other.Name == r.Name }) {
			names = append(names, r.Name)
		}
	}
	return names
}

// differing names the keys in which two configurations differ.
func differing(a, b *config.Node) (keys []string) {
	x, y := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range x.NumField() {
		if field := x.Type().Field(i); !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			key := field.Tag.Get("mapstructure")
			if key == "" {
				key = strings.ToLower(field.Name)
			}
			keys = append(keys, key)
		}
	}
	return keys
}
