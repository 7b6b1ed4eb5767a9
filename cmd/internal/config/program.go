// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// program is one of those in the binary that are configured. Precedence: flag, environment, file,
// default.
type program struct {
	command  string                // whose --help has an example
	prefix   string                // of its variables
	lists    []string              // keys whose value in the environment is a list, in YAML or JSON
	defaults func() map[string]any // of the keys that are no lists
	flags    map[string]string     // by key; a command may have only some of them
	own      string                // a key of resources that only this program knows
}

// envOf is the variable that overrides a key.
func (p program) Variable(key string) string {
	return p.prefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// variables are all that override keys, in order.
func (p program) Variables() (known []string) {
	for key := range p.defaults() {
		known = append(known, p.Variable(key))
	}
	for _, key := range p.lists {
		known = append(known, p.Variable(key))
	}
	slices.Sort(known)
	return known
}

// load reads a configuration file, or with no name the environment alone, into a struct, and the
// resources, which are read with more care. source says where it comes from.
func (p program) load(file string, flags *pflag.FlagSet, into any) (source string, resources []Resource, err error) {
	v := viper.New()
	v.SetConfigType("yaml")
	v.SetEnvPrefix(strings.TrimSuffix(p.prefix, "_"))
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.AutomaticEnv()
	for key, value := range p.defaults() {
		v.SetDefault(key, value)
	}
	for key, flag := range p.flags {
		if f := flags.Lookup(flag); f != nil {
			if err := v.BindPFlag(key, f); err != nil {
				return "", nil, err
			}
		}
	}
	source = fmt.Sprintf("the environment (%s*)", p.prefix)
	var exposed error
	if file != "" {
		source = file
		if exposed, err = readConfig(v, file, p.command); err != nil {
			return "", nil, err
		}
	}
	if err := p.listsFromEnvironment(v); err != nil {
		return "", nil, err
	}
	if resources, err = decodeResources(v.Get("resources"), p.own); err != nil {
		return "", nil, fmt.Errorf("%s: %w: see the example in \"%s --help\"", source, err, p.command)
	}
	if os.Getenv(p.Variable("resources")) == "" {
		if err := keptSecret(resources, exposed); err != nil {
			return "", nil, fmt.Errorf("%s: %w", source, err)
		}
	}
	v.Set("resources", []any{}) // done with
	if err := v.UnmarshalExact(into, func(d *mapstructure.DecoderConfig) { d.ErrorUnused = true }); err != nil {
		return "", nil, fmt.Errorf("%s: %s: see the example in \"%s --help\"", source, decodeError(err), p.command)
	}
	return source, resources, nil
}

// listsFromEnvironment puts the lists of the environment over those of the file.
func (p program) listsFromEnvironment(v *viper.Viper) error {
	for _, key := range p.lists {
		text := os.Getenv(p.Variable(key))
		if text == "" {
			continue
		}
		var list []any
		if err := yaml.Unmarshal([]byte(text), &list); err != nil {
			return fmt.Errorf("%s is no list in YAML or JSON%s: an example is in \"%s --help\"", p.Variable(key),
				line(err), p.command)
		}
		v.Set(key, list)
	}
	return nil
}
