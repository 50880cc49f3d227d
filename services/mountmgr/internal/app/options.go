// Package app wires juicefs-mountmgr together.
package app

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/volume"
)

// Options are the flags of juicefs-mountmgr.
type Options struct {
	Endpoint       string
	NodeName       string
	DriverName     string
	KubeletDir     string
	MountNamespace string
	VaultSocket    string
	ConfigFile     string
	Kubeconfig     string
	StateDir       string
	PrivateDir     string
	LauncherBinary string
	LauncherDir    string
	MetricsAddress string
	LogLevel       string

	MountRoot           string
	CacheDir            string
	CommunityImage      string
	EnterpriseImage     string
	MountServiceAccount string
	MountPriorityClass  string
	MountPods           string
	ExchangeDir         string
}

// The kinds of mount pods that --mount-pods names.
const (
	unprivilegedPods = "unprivileged"
	classicPods      = "classic"
)

// AddFlags registers the flags with their defaults.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Endpoint, "endpoint", "unix:///run/juicefs-csi/mountmgr/mountmgr.sock", "where the gRPC service listens")
	fs.StringVar(&o.NodeName, "node-name", "", "Kubernetes name of this node (required)")
	fs.StringVar(&o.DriverName, "driver-name", "csi.juicefs.com", "name of the CSI driver")
	fs.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "kubelet's root directory; targets outside are refused")
	fs.StringVar(&o.MountNamespace, "mount-namespace", "kube-system", "namespace of the mount pods")
	fs.StringVar(&o.VaultSocket, "vault", "/run/juicefs-vault/vault.sock", "socket of fdvault")
	fs.StringVar(&o.ConfigFile, "config", "/etc/config/config.yaml", "config.yaml of the driver's ConfigMap; need not exist")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; empty for the pod's own service account")
	fs.StringVar(&o.StateDir, "state-dir", "/var/lib/juicefs-csi/mountmgr", "directory of the store")
	fs.StringVar(&o.PrivateDir, "private-dir", "/run/juicefs-csi/private", "directory on a tmpfs for the Secrets of live mounts")
	fs.StringVar(&o.LauncherBinary, "launcher-binary", "/jfs-launch", "the jfs-launch that mount pods run")
	fs.StringVar(&o.LauncherDir, "launcher-dir", "/var/lib/juicefs-csi/launcher", "host directory from which mount pods run jfs-launch")
	fs.StringVar(&o.MetricsAddress, "metrics-address", ":9569", "where /metrics and /healthz are served; empty for nowhere")
	fs.StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&o.MountRoot, "mount-dir", "/var/lib/juicefs/volume", "host directory below which kernel mounts are made")
	fs.StringVar(&o.CacheDir, "cache-dir", "/var/jfsCache", "host directory of caches where no cache-dir option is given")
	fs.StringVar(&o.CommunityImage, "ce-mount-image", "juicedata/mount:ce-v1.4.1", "mount image of the Community Edition")
	fs.StringVar(&o.EnterpriseImage, "ee-mount-image", "juicedata/mount:ee-5.3.2", "mount image of the Enterprise Edition")
	fs.StringVar(&o.MountServiceAccount, "mount-service-account", "juicefs-mount-sa", "service account of mount pods; it gets no token")
	fs.StringVar(&o.MountPriorityClass, "mount-priority-class", "system-node-critical", "priority class of mount pods")
	fs.StringVar(&o.MountPods, "mount-pods", unprivilegedPods,
		"kind of new mount pods: unprivileged; or classic, as the existing driver has them, to move back to it")
	fs.StringVar(&o.ExchangeDir, "exchange-dir", "/var/run/juicefs-csi",
		"host directory in which classic mount pods exchange descriptors, also those of the existing driver")
}

// Validate reports every fault at once, each naming its flag.
func (o *Options) Validate() error {
	var faults *multierror.Error
	if _, err := endpoint.Parse(o.Endpoint); err != nil {
		faults = multierror.Append(faults, fmt.Errorf("--endpoint: %w", err))
	}
	if _, err := o.level(); err != nil {
		faults = multierror.Append(faults, fmt.Errorf("--log-level: %w", err))
	}
	if o.MountPods != unprivilegedPods && o.MountPods != classicPods {
		faults = multierror.Append(faults, fmt.Errorf("--mount-pods: %q is neither %s nor %s", o.MountPods, unprivilegedPods, classicPods))
	}
	required := []struct{ flag, value string }{
		{"--node-name", o.NodeName}, {"--driver-name", o.DriverName}, {"--mount-namespace", o.MountNamespace},
		{"--ce-mount-image", o.CommunityImage},
	}
	for _, r := range required {
		if r.value == "" {
			faults = multierror.Append(faults, fmt.Errorf("%s is empty: give a value", r.flag))
		}
	}
	paths := []struct{ flag, value string }{
		{"--kubelet-dir", o.KubeletDir}, {"--vault", o.VaultSocket}, {"--config", o.ConfigFile}, {"--state-dir", o.StateDir},
		{"--private-dir", o.PrivateDir}, {"--launcher-binary", o.LauncherBinary}, {"--launcher-dir", o.LauncherDir},
		{"--mount-dir", o.MountRoot}, {"--cache-dir", o.CacheDir}, {"--exchange-dir", o.ExchangeDir},
	}
	for _, p := range paths {
		if !filepath.IsAbs(p.value) || filepath.Clean(p.value) != p.value {
			faults = multierror.Append(faults, fmt.Errorf("%s: %q is not an absolute, clean path", p.flag, p.value))
		}
	}
	return faults.ErrorOrNil()
}

func (o *Options) level() (slog.Level, error) {
	var level slog.Level
	return level, level.UnmarshalText([]byte(o.LogLevel))
}

func (o *Options) defaults() volume.Defaults {
	return volume.Defaults{
		CommunityImage: o.CommunityImage, EnterpriseImage: o.EnterpriseImage,
		MountRoot: o.MountRoot, CacheDir: o.CacheDir,
		ServiceAccount: o.MountServiceAccount, PriorityClass: o.MountPriorityClass,
		ShareMode: volume.ShareByVolume,
	}
}
