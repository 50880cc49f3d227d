// Package app wires the controller together.
package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/endpoint"
)

// Options are the flags of the controller.
type Options struct {
	Endpoint       string
	DriverName     string
	ConfigFile     string
	MetricsAddress string
	LogLevel       string
	// NodeName is the label node_name of metrics.
	NodeName string

	MountNamespace      string
	MountServiceAccount string
	MountmgrImage       string
	CommunityImage      string
	EnterpriseImage     string

	Provisioner bool
	// Workers is how many volumes are provisioned at once, and deleted.
	Workers int

	LeaderElection          bool
	LeaderElectionNamespace string
	LeaseDuration           time.Duration

	Kubeconfig string
	QPS        float32
	Burst      int
}

// DefaultOptions are the options without flags. Environment variables of the
// existing driver's Deployments count as defaults. It fails with a variable that
// is no number.
func DefaultOptions() (Options, error) {
	workers, workersErr := envNumber("PROVISION_WORKER_THREADS", 100)
	qps, qpsErr := envNumber("KUBE_QPS", 20)
	burst, burstErr := envNumber("KUBE_BURST", 30)
	return Options{
		Endpoint:        "unix:///csi/csi.sock",
		DriverName:      envText("DRIVER_NAME", "csi.juicefs.com"),
		MetricsAddress:  ":9567",
		LogLevel:        "info",
		NodeName:        envText("NODE_NAME", ""),
		MountNamespace:  envText("JUICEFS_MOUNT_NAMESPACE", "kube-system"),
		MountmgrImage:   "juicefs-csi/mountmgr:v0.1.0",
		CommunityImage:  envText("JUICEFS_CE_MOUNT_IMAGE", "juicedata/mount:ce-v1.4.2"),
		EnterpriseImage: envText("JUICEFS_EE_MOUNT_IMAGE", "juicedata/mount:ee-5.3.2"),
		Provisioner:     true,
		Workers:         int(workers),
		LeaderElection:  true,

		LeaderElectionNamespace: envText("POD_NAMESPACE", "kube-system"),
		LeaseDuration:           15 * time.Second,

		QPS:   float32(qps),
		Burst: int(burst),
	}, errors.Join(workersErr, qpsErr, burstErr)
}

func envText(name, fallback string) string {
	if text := os.Getenv(name); text != "" {
		return text
	}
	return fallback
}

func envNumber(name string, fallback float64) (float64, error) {
	text := os.Getenv(name)
	if text == "" {
		return fallback, nil
	}
	number, err := strconv.ParseFloat(text, 32)
	if err != nil {
		return fallback, fmt.Errorf("environment variable %s: %q is not a number", name, text)
	}
	return number, nil
}

// AddFlags adds the flags; the present values are their defaults.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Endpoint, "endpoint", o.Endpoint, "where the CSI services listen: unix:///path or tcp://host:port")
	flags.StringVar(&o.DriverName, "driver-name", o.DriverName, "name of the CSI driver")
	flags.StringVar(&o.ConfigFile, "config", o.ConfigFile, "config.yaml of the driver's ConfigMap; it may be missing")
	flags.StringVar(&o.MetricsAddress, "metrics-address", o.MetricsAddress, "where /metrics and /healthz are served; empty for nowhere")
	flags.StringVar(&o.LogLevel, "log-level", o.LogLevel, "debug, info, warn or error")
	flags.StringVar(&o.NodeName, "node-name", o.NodeName, "label node_name of metrics")

	flags.StringVar(&o.MountNamespace, "mount-namespace", o.MountNamespace, "namespace of mount pods and jobs")
	flags.StringVar(&o.MountServiceAccount, "mount-service-account", o.MountServiceAccount,
		"service account of jobs; empty for the namespace's default")
	flags.StringVar(&o.MountmgrImage, "mountmgr-image", o.MountmgrImage, "image of the mount manager, which holds the launcher of jobs")
	flags.StringVar(&o.CommunityImage, "ce-mount-image", o.CommunityImage, "default mount image of the Community edition")
	flags.StringVar(&o.EnterpriseImage, "ee-mount-image", o.EnterpriseImage, "default mount image of the Enterprise edition")

	flags.BoolVar(&o.Provisioner, "provisioner", o.Provisioner,
		"make volumes for claims; without it nothing of Kubernetes is needed but for the deletion of volumes")
	flags.IntVar(&o.Workers, "provision-worker-threads", o.Workers, "volumes to make at once, and to delete")

	flags.BoolVar(&o.LeaderElection, "leader-election", o.LeaderElection, "let one of several controllers make volumes")
	flags.StringVar(&o.LeaderElectionNamespace, "leader-election-namespace", o.LeaderElectionNamespace, "namespace of the lease")
	flags.DurationVar(&o.LeaseDuration, "leader-election-lease-duration", o.LeaseDuration, "after this time another controller takes over")

	flags.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "kubeconfig; empty for the pod's service account")
	flags.Float32Var(&o.QPS, "kube-qps", o.QPS, "requests to Kubernetes per second")
	flags.IntVar(&o.Burst, "kube-burst", o.Burst, "requests to Kubernetes at once")
}

// Validate finds flags that cannot work.
func (o *Options) Validate() error {
	var level slog.Level
	_, endpointErr := endpoint.Parse(o.Endpoint)
	problems := []error{endpointErr}
	for _, check := range []struct {
		wrong bool
		text  string
	}{
		{o.DriverName == "" || len(o.DriverName) > 63, "--driver-name must have 1 to 63 characters"},
		{level.UnmarshalText([]byte(o.LogLevel)) != nil, "--log-level must be debug, info, warn or error"},
		{o.MountNamespace == "", "--mount-namespace must not be empty"},
		{o.MountmgrImage == "", "--mountmgr-image must not be empty"},
		{o.Workers < 1, "--provision-worker-threads must be at least 1"},
		{o.LeaderElection && o.LeaderElectionNamespace == "", "--leader-election-namespace must not be empty"},
		{o.LeaseDuration < 3*time.Second, "--leader-election-lease-duration must be at least 3s"},
		{o.QPS <= 0 || o.Burst < 1, "--kube-qps and --kube-burst must be positive"},
	} {
		if check.wrong {
			problems = append(problems, errors.New(check.text))
		}
	}
	return errors.Join(problems...)
}

func (o *Options) level() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return slog.LevelInfo // Validate has refused it
	}
	return level
}
