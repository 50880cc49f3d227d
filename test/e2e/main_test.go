//go:build e2e

// Package e2e uses the driver as its users do: on a real Kubernetes cluster
// with real kubelets, the real JuiceFS client and kubectl's own API calls.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

// setupTimeout bounds the start of the cluster and the installation, with
// everything built already.
const setupTimeout = 15 * time.Minute

// environment is the cluster that all tests share; only TestMain sets it.
type environment struct {
	cluster *devcluster.Cluster
	tree    local.Tree
	helm    string
	config  *rest.Config
	kube    kubernetes.Interface
	release string
	// dataDir is a directory of every node's disk for file storage.
	dataDir string
}

var env environment

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run starts the cluster, installs the driver and runs the tests. KEEP=1
// leaves the cluster for people to look around; DEVCLUSTER_DIR is another state
// directory than the default.
func run(m *testing.M) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	dir := os.Getenv("DEVCLUSTER_DIR")
	env.cluster, err = devcluster.Up(ctx, devcluster.Options{
		Dir: dir, Nodes: 2, Redis: true, CacheDir: devcluster.DefaultCacheDir(os.Getenv),
		KubernetesVersion: os.Getenv("KUBERNETES_VERSION"),
	}, os.Stderr)
	if err != nil {
		return 1, err
	}
	if os.Getenv("KEEP") == "" {
		defer func() {
			if downErr := devcluster.Down(context.Background(), dir, os.Stderr); downErr != nil && err == nil {
				err = downErr
			}
		}()
	}
	if err := install(ctx); err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(env.dataDir) }()
	return m.Run(), nil
}

func install(ctx context.Context) error {
	var err error
	if env.tree, err = local.FindTree(); err != nil {
		return err
	}
	if env.helm = os.Getenv("HELM"); env.helm == "" {
		env.helm = "helm"
	}
	env.release = os.Getenv("RELEASE")
	if env.release == "" {
		env.release = "v0.1.0"
	}
	if err := env.tree.Install(ctx, env.cluster, env.helm, os.Stderr, installValues()...); err != nil {
		return err
	}
	if env.config, err = clientcmd.BuildConfigFromFlags("", env.cluster.Kubeconfig()); err != nil {
		return err
	}
	env.config.QPS, env.config.Burst = 200, 400
	if env.kube, err = kubernetes.NewForConfig(env.config); err != nil {
		return err
	}
	env.dataDir, err = os.MkdirTemp("/var/tmp", "juicefs-e2e-")
	if err != nil {
		return err
	}
	return os.Chmod(env.dataDir, 0o777)
}

// installValues keep requests small: every node of the cluster believes that
// it has all processors of the machine, and they are two.
func installValues() []string {
	return []string{
		"globalConfig.mountPodPatch[0].resources.requests.cpu=10m",
		"globalConfig.mountPodPatch[0].resources.requests.memory=32Mi",
	}
}
