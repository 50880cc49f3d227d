package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of a cluster. They are fixed, so a kubeconfig, a test and a
// document can name them.
const (
	// ControlPlaneIP is the address of the API server and of Redis.
	ControlPlaneIP = "10.77.0.1"
	// HostIP is the address of the machine itself on the cluster's bridge;
	// pods reach servers of the machine there.
	HostIP = "10.77.0.254"
	// APIServerPort is the port of the API server at ControlPlaneIP.
	APIServerPort = 6443
	// RedisAddress is where Redis listens when it is started.
	RedisAddress = ControlPlaneIP + ":6379"

	bridgePrefix = 24
	podCIDR      = "10.78.0.0/16"
	serviceCIDR  = "10.79.0.0/16"
	apiServiceIP = "10.79.0.1"
	nodeIPOffset = 10
)

// Interface names, at most 15 bytes.
const (
	bridgeName     = "jfsdc0"
	hostLinkName   = "jfsdc-host"
	hostPeerName   = "jfsdc-hostbr"
	nodeLinkPrefix = "jfsdc-n"
)

const controlPlaneName = "control-plane"

// Node is one node of the cluster.
type Node struct {
	// Name is the host name and the name of the Node object: node-1 and up.
	Name string `json:"name"`
	// Index counts from 1.
	Index int `json:"index"`
	// IP is the node's InternalIP, reachable from the machine.
	IP netip.Addr `json:"ip"`
	// PodCIDR is the block that the node's pods get their addresses from; the
	// machine has a route to it.
	PodCIDR netip.Prefix `json:"podCIDR"`
}

func planNodes(count int) []Node {
	nodes := make([]Node, 0, count)
	for i := 1; i <= count; i++ {
		nodes = append(nodes, Node{
			Name:    fmt.Sprintf("node-%d", i),
			Index:   i,
			IP:      netip.AddrFrom4([4]byte{10, 77, 0, byte(nodeIPOffset + i)}),
			PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 78, byte(i), 0}), 24),
		})
	}
	return nodes
}

// layout is the state directory.
type layout struct{ dir string }

func (l layout) path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

func (l layout) stateFile() string             { return l.path("cluster.json") }
func (l layout) auditLog() string              { return l.path("logs", "audit.log") }
func (l layout) log(daemon string) string      { return l.path("logs", daemon+".log") }
func (l layout) pidFile(daemon string) string  { return l.path("pids", daemon+".json") }
func (l layout) pki(file string) string        { return l.path("pki", file) }
func (l layout) config(file string) string     { return l.path("config", file) }
func (l layout) kubeconfig(user string) string { return l.path("config", user+".kubeconfig") }
func (l layout) machine(name string) machine {
	return machine{name: name, dir: l.path("ns", name), cgroup: filepath.Join(l.cgroup(), name)}
}

// cgroup names the directory below which the nodes' cgroups are, in every
// hierarchy; the prefix keeps it apart from anything else there.
func (l layout) cgroup() string {
	const prefix = "juicefs-devcluster"
	return prefix + strings.TrimPrefix(filepath.Base(l.dir), prefix)
}

func (l layout) nodeDir(node, id string) string { return l.path("nodes", node, id) }

func (l layout) makeDirs() error {
	for _, dir := range []string{"logs", "pids", "pki", "config", "ns", "nodes", "etcd", "redis"} {
		if err := os.MkdirAll(l.path(dir), 0o700); err != nil {
			return fmt.Errorf("create state directory: %w", err)
		}
	}
	return nil
}

// lock keeps two commands from working on one cluster at a time. The lock
// file lies beside the state directory, which Down removes.
func (l layout) lock(ctx context.Context) (unlock func(), err error) {
	path := l.dir + ".lock"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create directory of lock: %w", err)
	}
	var f *os.File
	err = poll(ctx, 100*time.Millisecond, func() (bool, error) {
		var held bool
		f, held, err = tryLock(path)
		return held, err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for another devcluster command that holds %s: %w", path, err)
	}
	return func() { _ = os.Remove(path); _ = f.Close() }, nil
}

// tryLock returns false while another process holds the lock, or removed the
// file between our opening and locking it.
func tryLock(path string) (f *os.File, held bool, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && sameFile(f, path) {
		return f, true, nil
	}
	_ = f.Close()
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, fmt.Errorf("lock: %w", err)
	}
	return nil, false, nil
}

func sameFile(f *os.File, path string) bool {
	open, err1 := f.Stat()
	named, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(open, named)
}

// poll calls done at once and then every interval until it returns true, an
// error, or the context ends.
func poll(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
