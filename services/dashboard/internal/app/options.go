// Package app wires the dashboard together.
package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/inventory"
)

// How users are known to the dashboard.
const (
	// authToken asks for a Kubernetes bearer token and answers with its rights.
	authToken = "token"
	// authNone answers everybody with the dashboard's own rights.
	authNone = "none"
)

// Options are the flags of the dashboard.
type Options struct {
	Listen         string
	Kubeconfig     string
	DriverName     string
	MountNamespace string
	Auth           string
	ReadOnly       bool
	LogLevel       string
}

// DefaultOptions are the options without flags.
func DefaultOptions() Options {
	return Options{
		Listen:         ":8088",
		DriverName:     inventory.DriverName,
		MountNamespace: "kube-system",
		Auth:           authToken,
		ReadOnly:       true,
		LogLevel:       "info",
	}
}

// AddFlags adds the flags; the present values are their defaults.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Listen, "listen", o.Listen, "host:port of the page, the API, /metrics and /healthz")
	flags.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "kubeconfig; empty for the pod's service account")
	flags.StringVar(&o.DriverName, "driver-name", o.DriverName, "name of the CSI driver")
	flags.StringVar(&o.MountNamespace, "mount-namespace", o.MountNamespace, "namespace of the mount pods")
	flags.StringVar(&o.Auth, "auth", o.Auth,
		"token: users sign in with a Kubernetes token and see what it may list; none: everybody sees everything")
	flags.BoolVar(&o.ReadOnly, "read-only", o.ReadOnly, "refuse every call that would change something")
	flags.StringVar(&o.LogLevel, "log-level", o.LogLevel, "debug, info, warn or error")
}

// Validate finds flags that cannot work.
func (o *Options) Validate() error {
	var problems []error
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		problems = append(problems, fmt.Errorf("--listen must be host:port: %w", err))
	}
	if o.DriverName == "" {
		problems = append(problems, errors.New("--driver-name must not be empty"))
	}
	if o.MountNamespace == "" {
		problems = append(problems, errors.New("--mount-namespace must not be empty"))
	}
	if o.Auth != authToken && o.Auth != authNone {
		problems = append(problems, fmt.Errorf("--auth must be token or none, not %q", o.Auth))
	}
	if err := new(slog.Level).UnmarshalText([]byte(o.LogLevel)); err != nil {
		problems = append(problems, errors.New("--log-level must be debug, info, warn or error"))
	}
	return errors.Join(problems...)
}

// level is the parsed LogLevel of valid options.
func (o *Options) level() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return slog.LevelInfo
	}
	return level
}
