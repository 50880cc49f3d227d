// Package app wires juicefs-csi-node together.
package app

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/endpoint"
)

// Options are the flags of juicefs-csi-node.
type Options struct {
	Endpoint        string
	RegistrationDir string
	KubeletDir      string
	NodeName        string
	MountManager    string
	DriverName      string
	MetricsAddress  string
	LogLevel        string
}

// AddFlags registers the flags with their defaults.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Endpoint, "endpoint", "",
		"where the CSI services listen (default unix://<kubelet-dir>/csi-plugins/<driver-name>/csi.sock)")
	flags.StringVar(&o.RegistrationDir, "registration-dir", "",
		"directory in which kubelet looks for plugins (default <kubelet-dir>/plugins_registry); none where no kubelet does")
	flags.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "kubelet's root directory")
	flags.StringVar(&o.NodeName, "node-name", "", "Kubernetes name of this node (required)")
	flags.StringVar(&o.MountManager, "mountmgr", "unix:///run/juicefs-csi/mountmgr/mountmgr.sock", "where the mount manager listens")
	flags.StringVar(&o.DriverName, "driver-name", "csi.juicefs.com", "name of the CSI driver")
	flags.StringVar(&o.MetricsAddress, "metrics-address", ":9567", "where /metrics and /healthz are served; empty for nowhere")
	flags.StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
}

// noRegistration is the value of --registration-dir for orchestrators that are
// told where the CSI socket is.
const noRegistration = "none"

func (o *Options) registers() bool { return o.RegistrationDir != noRegistration }

// complete gives flags without a value the one that follows from others.
func (o *Options) complete() {
	if o.Endpoint == "" {
		o.Endpoint = "unix://" + filepath.Join(o.KubeletDir, "csi-plugins", o.DriverName, "csi.sock")
	}
	if o.RegistrationDir == "" {
		o.RegistrationDir = filepath.Join(o.KubeletDir, "plugins_registry")
	}
}

// Validate reports every fault at once, each naming its flag.
func (o *Options) Validate() error {
	completed := *o
	completed.complete()
	return completed.validate()
}

func (o *Options) validate() error {
	var faults *multierror.Error
	fault := func(format string, arguments ...any) {
		faults = multierror.Append(faults, fmt.Errorf(format, arguments...))
	}
	if o.NodeName == "" {
		fault("--node-name is empty: give the name of the Kubernetes node")
	}
	// CSI allows at most 63 characters: letters and digits with - . between.
	if !regexp.MustCompile(`^[a-zA-Z0-9]([-.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`).MatchString(o.DriverName) {
		fault("--driver-name %q is not the name of a CSI driver: at most 63 letters, digits, dashes and dots", o.DriverName)
	}
	paths := []struct{ flag, path string }{{"--kubelet-dir", o.KubeletDir}}
	sockets := []struct{ flag, endpoint string }{{"--endpoint", o.Endpoint}, {"--mountmgr", o.MountManager}}
	if o.registers() {
		paths = append(paths, struct{ flag, path string }{"--registration-dir", o.RegistrationDir})
		sockets = append(sockets, struct{ flag, endpoint string }{"--registration-dir", o.registration().String()})
	}
	for _, each := range paths {
		if !filepath.IsAbs(each.path) {
			fault("%s %q is not an absolute path", each.flag, each.path)
		}
	}
	// kubelet and the mount manager are on this node, and secrets go this way
	// in plain text.
	for _, each := range sockets {
		parsed, err := endpoint.Parse(each.endpoint)
		switch {
		case err != nil:
			fault("%s: %w", each.flag, err)
		case parsed.Network != endpoint.Unix:
			fault("%s %q is not a unix socket: use unix:///path", each.flag, each.endpoint)
		}
	}
	if _, err := o.level(); err != nil {
		fault("--log-level %q: use debug, info, warn or error", o.LogLevel)
	}
	return faults.ErrorOrNil()
}

// registration is the socket that kubelet finds.
func (o *Options) registration() endpoint.Endpoint {
	return endpoint.Endpoint{Network: endpoint.Unix, Address: filepath.Join(o.RegistrationDir, o.DriverName+"-reg.sock")}
}

func (o *Options) level() (level slog.Level, err error) {
	err = level.UnmarshalText([]byte(o.LogLevel))
	return level, err
}
