// Package devcluster runs a real Kubernetes cluster on one Linux machine, as
// root, without Docker and without a registry: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, kube-proxy and kubelet from the Go
// modules of Kubernetes, containerd, runc and the CNI plugins from the
// distribution.
//
// The control plane has a network namespace with a bridge. Every node has a
// network, a mount and a UTS namespace of its own, and its own copy of every
// host path that holds state, so that a driver that works through host paths
// meets the same world as on separate machines. What the nodes share is the
// kernel, the disk, and everything of the root file system not listed in
// privateDirs.
//
// One cluster runs on a machine at a time: addresses and interface names are
// fixed (see layout.go).
package devcluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultDir is where a cluster keeps everything it writes. It is short
// because Unix socket addresses below it are limited to 108 bytes.
const DefaultDir = "/var/lib/juicefs-devcluster"

// maxNodes is bounded by memory, not by addresses: a node without pods takes
// about 250 MiB.
const maxNodes = 16

// Options describe a cluster.
type Options struct {
	// Nodes is the number of nodes, 1 to 16.
	Nodes int
	// Dir is the state directory; empty means DefaultDir.
	Dir string
	// KubernetesVersion is a release such as v1.35.4; empty means the one
	// that the committed module test/devcluster/kubernetes pins.
	KubernetesVersion string
	// CacheDir holds what is slow to make and outlives a cluster: Kubernetes
	// binaries and images, keyed by version. See DefaultCacheDir.
	CacheDir string
	// SourceDir is test/devcluster in a checkout; empty means that it is
	// looked for from the working directory upwards.
	SourceDir string
	// Redis starts a Redis server, without persistence, at RedisAddress.
	Redis bool
}

// DefaultCacheDir is the cache directory that the environment names:
// $JUICEFS_CSI_CACHE, $XDG_CACHE_HOME/juicefs-csi or $HOME/.cache/juicefs-csi.
// The caller passes os.Getenv.
func DefaultCacheDir(getenv func(string) string) string {
	if dir := getenv("JUICEFS_CSI_CACHE"); dir != "" {
		return dir
	}
	if dir := getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "juicefs-csi")
	}
	home := getenv("HOME")
	if home == "" {
		home = "/root"
	}
	return filepath.Join(home, ".cache", "juicefs-csi")
}

func (o *Options) complete() error {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if !filepath.IsAbs(o.Dir) || filepath.Clean(o.Dir) == "/" {
		return fmt.Errorf("state directory %q is not an absolute path below /: %w", o.Dir, errdefs.ErrInvalidArgument)
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return fmt.Errorf("%d nodes: want 1 to %d: %w", o.Nodes, maxNodes, errdefs.ErrInvalidArgument)
	}
	if o.CacheDir == "" {
		return fmt.Errorf("no cache directory given: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// Cluster is a running cluster. Its methods may be called by any process of
// the machine's root user; nothing is kept in memory.
type Cluster struct {
	layout layout
	state  state
}

// Up starts a cluster and returns when every node is Ready. It says on
// progress what it does. A cluster that runs already is returned as it is; the
// remains of a dead one are removed first. After an error what was started
// stays for inspection: call Down.
func Up(ctx context.Context, opts Options, progress io.Writer) (*Cluster, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if err := checkRequirements(opts); err != nil {
		return nil, err
	}
	layout := layout{dir: filepath.Clean(opts.Dir)}
	unlock, err := layout.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	say := newReporter(progress)
	if c, err := reuse(ctx, layout, opts, say); c != nil || err != nil {
		return c, err
	}
	if err := layout.checkNetworkFree(); err != nil {
		return nil, err
	}
	build, err := prepareBuild(ctx, opts, say)
	if err != nil {
		return nil, err
	}
	c := &Cluster{layout: layout, state: state{
		KubernetesVersion: build.version,
		KubernetesBinary:  build.kubernetes,
		PauseImage:        build.pauseImage,
		Nodes:             planNodes(opts.Nodes),
		Redis:             opts.Redis,
	}}
	return c, c.start(ctx, say)
}

// reuse returns the cluster that runs in the directory, if one does, and
// removes the remains of one that does not run any more.
func reuse(ctx context.Context, layout layout, opts Options, say *reporter) (*Cluster, error) {
	c, err := open(layout)
	if errdefs.IsNotFound(err) {
		return nil, removeRemains(ctx, layout, say)
	}
	if err != nil {
		return nil, err
	}
	dead := c.deadDaemons()
	if !c.state.Complete || len(dead) > 0 {
		if len(dead) > 0 {
			say.printf("not running any more: %v", dead)
		}
		return nil, removeRemains(ctx, layout, say)
	}
	if len(c.state.Nodes) != opts.Nodes {
		return nil, fmt.Errorf("a cluster of %d nodes runs in %s, not of %d: take it down first: %w",
			len(c.state.Nodes), layout.dir, opts.Nodes, errdefs.ErrAlreadyExists)
	}
	if v := opts.KubernetesVersion; v != "" && v != c.state.KubernetesVersion {
		return nil, fmt.Errorf("a cluster of Kubernetes %s runs in %s, not of %s: take it down first: %w",
			c.state.KubernetesVersion, layout.dir, v, errdefs.ErrAlreadyExists)
	}
	say.printf("the cluster runs already")
	if opts.Redis && !c.state.Redis {
		return c, c.StartRedis(ctx)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, say *reporter) error {
	if err := c.layout.makeDirs(); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	if err := c.createPKI(); err != nil {
		return err
	}
	say.printf("network and node namespaces")
	if err := c.createMachines(); err != nil {
		return err
	}
	say.printf("control plane, Kubernetes %s", c.state.KubernetesVersion)
	if err := c.startControlPlane(ctx, say); err != nil {
		return err
	}
	if c.state.Redis {
		if err := c.StartRedis(ctx); err != nil {
			return err
		}
	}
	if err := c.startKubelets(ctx, say); err != nil {
		return err
	}
	c.state.Complete = true
	if err := c.save(); err != nil {
		return err
	}
	say.printf("ready: %d nodes, kubeconfig %s", len(c.state.Nodes), c.Kubeconfig())
	return nil
}

// Down removes the cluster of a state directory and everything it left on the
// machine, running or not, complete or not. Calling it without a cluster is
// fine. The cache is kept.
func Down(ctx context.Context, dir string, progress io.Writer) error {
	if os.Geteuid() != 0 {
		return errNotRoot()
	}
	if dir == "" {
		dir = DefaultDir
	}
	layout := layout{dir: filepath.Clean(dir)}
	unlock, err := layout.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return removeRemains(ctx, layout, newReporter(progress))
}

// Open returns the cluster of a state directory, which need not be running;
// errdefs.ErrNotFound when there is none.
func Open(dir string) (*Cluster, error) {
	if dir == "" {
		dir = DefaultDir
	}
	return open(layout{dir: filepath.Clean(dir)})
}

// Kubeconfig is the path of a kubeconfig with all rights, for use on the
// machine itself and inside the nodes.
func (c *Cluster) Kubeconfig() string { return c.layout.kubeconfig("admin") }

// AuditLog is the path of the API server's audit log: one JSON event a line,
// level Metadata, requests of service accounts only, written when a request
// is complete.
func (c *Cluster) AuditLog() string { return c.layout.auditLog() }

// Nodes lists the nodes in order.
func (c *Cluster) Nodes() []Node { return append([]Node(nil), c.state.Nodes...) }

// readyTimeout bounds each wait for a part of the cluster to come up.
const readyTimeout = 2 * time.Minute
