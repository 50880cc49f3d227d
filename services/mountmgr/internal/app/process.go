package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/cgroup"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/processhost"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// The values of --mount-mode.
const (
	modePod     = "pod"
	modeProcess = "process"
)

// cgroupRoot is where the kernel shows control groups.
const cgroupRoot = "/sys/fs/cgroup"

func (o *Options) addProcessFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.MountMode, "mount-mode", modePod, "pod: each client in a mount pod; process: as a confined process of the node")
	fs.StringVar(&o.ProcessDir, "process-dir", "/run/juicefs-csi/process", "directory on a tmpfs for clients that run as processes")
	fs.StringVar(&o.ProcessCgroup, "process-cgroup", "juicefs-csi",
		"cgroup below "+cgroupRoot+" for clients that run as processes; empty for that of the mount manager, without limits")
	fs.StringVar(&o.ProcessNamespaces, "process-namespaces", "/proc/1/ns",
		"directory of the mnt and net namespaces in which clients run as processes; empty for those of the mount manager")
	fs.StringVar(&o.ClientDir, "client-dir", "/var/lib/juicefs-csi/client",
		"host directory with the clients that run as processes, in a directory for each mount image")
}

func (o *Options) processFaults() []error {
	var faults []error
	if o.MountMode != modePod && o.MountMode != modeProcess {
		faults = append(faults, fmt.Errorf("--mount-mode: %q is neither %s nor %s", o.MountMode, modePod, modeProcess))
	}
	if o.ProcessCgroup == "." || o.ProcessCgroup == ".." || strings.Contains(o.ProcessCgroup, "/") {
		faults = append(faults,
			fmt.Errorf("--process-cgroup: %q is not the name of one cgroup: use letters, digits and hyphens", o.ProcessCgroup))
	}
	return faults
}

func (o *Options) clientMode() store.ClientMode {
	if o.MountMode == modeProcess {
		return store.ModeProcess
	}
	return store.ModePod
}

// kubernetesClient is nil where processes run without Kubernetes.
func kubernetesClient(o Options, env environment) (kubernetes.Interface, error) {
	client, err := kubeClient(o.Kubeconfig, env)
	if o.MountMode == modeProcess && errors.Is(err, rest.ErrNotInCluster) {
		return nil, nil
	}
	return client, err
}

// mountPods is nil without Kubernetes.
func mountPods(o Options, client kubernetes.Interface) *mountpod.Pods {
	if client == nil {
		return nil
	}
	return mountpod.NewPods(client, o.MountNamespace, o.NodeName, o.KubeletDir).WithLauncher(o.launcher())
}

// hosts are where clients run: new ones as --mount-mode says, and those that are
// there where they are.
func hosts(o Options, pods *mountpod.Pods, log *slog.Logger) (manager.Hosts, error) {
	found := manager.Hosts{Mode: o.clientMode(), ByMode: make(map[store.ClientMode]manager.Host)}
	if pods != nil {
		found.ByMode[store.ModePod] = pods
	}
	groups, err := cgroups(o)
	if err != nil {
		return manager.Hosts{}, err
	}
	if err := os.MkdirAll(o.ProcessDir, 0o700); err != nil {
		return manager.Hosts{}, fmt.Errorf("--process-dir: %w", err)
	}
	found.ByMode[store.ModeProcess] = processhost.New(processhost.Options{
		Dir: o.ProcessDir, ClientDir: o.ClientDir, Namespaces: o.ProcessNamespaces, Cgroups: groups, Log: log,
	})
	return found, nil
}

// cgroups may be missing where no new process is made.
func cgroups(o Options) (cgroup.Tree, error) {
	if o.ProcessCgroup == "" {
		return cgroup.Tree{}, nil
	}
	tree, err := cgroup.Find(cgroupRoot, o.ProcessCgroup)
	if err != nil && o.MountMode == modeProcess {
		return cgroup.Tree{}, fmt.Errorf("--process-cgroup: %w", err)
	}
	return tree, nil
}
