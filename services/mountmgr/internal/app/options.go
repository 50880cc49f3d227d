// Package app wires juicefs-mountmgr together.
package app

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/cachedir"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodepods"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
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
	LauncherSource string
	LauncherImage  string
	HostRoot       string
	MetricsAddress string
	LogLevel       string

	RemoveStartupTaint bool

	MountRoot           string
	CacheDir            string
	CommunityImage      string
	EnterpriseImage     string
	MountServiceAccount string
	MountPriorityClass  string
	// MountPods is unprivileged or classic, and ExchangeDir where classic ones
	// exchange descriptors.
	MountPods   string
	ExchangeDir string

	MountMode         string
	ProcessDir        string
	ProcessCgroup     string
	ProcessNamespaces string
	ClientDir         string
	SparePods         int
	// KubeletPods asks kubelet for the pods of the node.
	KubeletPods bool
	// KubeletTLS is verify or insecure.
	KubeletTLS string
	KubeletCA  string
	// ReconcilerInterval is the time between two questions.
	ReconcilerInterval time.Duration
}

// Values of --kubelet-tls.
const (
	kubeletVerify   = "verify"
	kubeletInsecure = "insecure"
)

// serviceAccountDir is where a pod finds its service account.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

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
	fs.StringVar(&o.LauncherSource, "launcher-source", string(mountpod.LauncherFromHost),
		"how jfs-launch comes into mount pods: hostPath, image (Kubernetes 1.35) or initContainer")
	fs.StringVar(&o.LauncherImage, "launcher-image", "", "image with /jfs-launch, for the sources image and initContainer")
	fs.StringVar(&o.HostRoot, "host-root", "/proc/1/root",
		"root directory of the host, for cache directories of mount pods that do not run as root")
	fs.StringVar(&o.MetricsAddress, "metrics-address", ":9569", "where /metrics and /healthz are served; empty for nowhere")
	fs.StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
	fs.BoolVar(&o.RemoveStartupTaint, "remove-startup-taint", true,
		"remove the taint <driver-name>/agent-not-ready of this node when volumes can be mounted")
	fs.StringVar(&o.MountRoot, "mount-dir", "/var/lib/juicefs/volume", "host directory below which kernel mounts are made")
	fs.StringVar(&o.CacheDir, "cache-dir", "/var/jfsCache", "host directory of caches where no cache-dir option is given")
	fs.StringVar(&o.CommunityImage, "ce-mount-image", "juicedata/mount:ce-v1.4.1", "mount image of the Community Edition")
	fs.StringVar(&o.EnterpriseImage, "ee-mount-image", "juicedata/mount:ee-5.3.2", "mount image of the Enterprise Edition")
	fs.StringVar(&o.MountServiceAccount, "mount-service-account", "juicefs-mount-sa", "service account of mount pods; it gets no token")
	fs.StringVar(&o.MountPriorityClass, "mount-priority-class", "system-node-critical", "priority class of mount pods")
	o.addProcessFlags(fs)
	fs.IntVar(&o.SparePods, "spare-pods", 1, "mount pods of each shape in use that wait for a mount; 0 for none")
	fs.BoolVar(&o.KubeletPods, "kubelet-pods", true, "ask kubelet for the pods of the node; false: the API server")
	fs.StringVar(&o.KubeletTLS, "kubelet-tls", kubeletVerify, "kubelet's certificate: verify, or insecure to trust any")
	fs.StringVar(&o.KubeletCA, "kubelet-ca", serviceAccountDir+"/ca.crt", "authorities that may have signed kubelet's certificate")
	fs.DurationVar(&o.ReconcilerInterval, "reconciler-interval", nodepods.MinInterval,
		"how often to ask for the pods of the node, at least 5s")
	fs.StringVar(&o.MountPods, "mount-pods", unprivilegedPods,
		"kind of new mount pods: unprivileged; or classic, as the existing driver has them, to move back to it")
	fs.StringVar(&o.ExchangeDir, "exchange-dir", "/var/run/juicefs-csi",
		"host directory in which classic mount pods exchange descriptors, also those of the existing driver")
}

func (o *Options) checkMountPods() error {
	switch {
	case o.MountPods != unprivilegedPods && o.MountPods != classicPods:
		return fmt.Errorf("%q is neither %s nor %s", o.MountPods, unprivilegedPods, classicPods)
	case o.MountPods == classicPods && o.MountMode == modeProcess:
		return fmt.Errorf("%s are no processes: set --mount-mode=%s", classicPods, modePod)
	}
	return nil
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
	if o.SparePods < 0 {
		faults = multierror.Append(faults, fmt.Errorf("--spare-pods: %d is less than 0: give 0 for no spare mount pods", o.SparePods))
	}
	if o.KubeletTLS != kubeletVerify && o.KubeletTLS != kubeletInsecure {
		faults = multierror.Append(faults, fmt.Errorf("--kubelet-tls: %q is neither verify nor insecure", o.KubeletTLS))
	}
	if o.ReconcilerInterval < nodepods.MinInterval {
		faults = multierror.Append(faults, fmt.Errorf("--reconciler-interval: %s is less than %s", o.ReconcilerInterval, nodepods.MinInterval))
	}
	if err := o.launcher().Check(); err != nil {
		faults = multierror.Append(faults, fmt.Errorf("--launcher-source, --launcher-image: %w", err))
	}
	if err := o.checkMountPods(); err != nil {
		faults = multierror.Append(faults, fmt.Errorf("--mount-pods: %w", err))
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
	faults = multierror.Append(faults, o.processFaults()...)
	paths := []struct{ flag, value string }{
		{"--kubelet-dir", o.KubeletDir}, {"--vault", o.VaultSocket}, {"--config", o.ConfigFile}, {"--state-dir", o.StateDir},
		{"--private-dir", o.PrivateDir}, {"--launcher-binary", o.LauncherBinary}, {"--launcher-dir", o.LauncherDir},
		{"--mount-dir", o.MountRoot}, {"--cache-dir", o.CacheDir}, {"--host-root", o.HostRoot}, {"--kubelet-ca", o.KubeletCA},
		{"--process-dir", o.ProcessDir}, {"--client-dir", o.ClientDir}, {"--exchange-dir", o.ExchangeDir},
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

func (o *Options) spares(failed func(image string, cause error, again bool)) spare.Options {
	count := o.SparePods
	if o.MountMode == modeProcess {
		count = 0 // A process starts at once.
	}
	return spare.Options{Node: o.NodeName, LauncherDir: o.LauncherDir, Count: count, Failed: failed}
}

func (o *Options) launcher() mountpod.Launcher {
	return mountpod.Launcher{Source: mountpod.LauncherSource(o.LauncherSource), Image: o.LauncherImage}
}

// cacheRoots are how this process sees cache directories of the host; it must
// not enter the mounts that it makes.
func (o *Options) cacheRoots() cachedir.Roots {
	return cachedir.Roots{Own: []string{o.CacheDir}, Host: o.HostRoot, Avoid: []string{o.MountRoot, o.KubeletDir}}
}

func (o *Options) defaults(shareMode volume.ShareMode) volume.Defaults {
	defaults := volume.Defaults{
		CommunityImage: o.CommunityImage, EnterpriseImage: o.EnterpriseImage,
		MountRoot: o.MountRoot, CacheDir: o.CacheDir,
		ServiceAccount: o.MountServiceAccount, PriorityClass: o.MountPriorityClass,
		ShareMode: shareMode, HostNetwork: o.MountMode == modeProcess,
	}
	return defaults.WithEnvironment(os.Getenv)
}
