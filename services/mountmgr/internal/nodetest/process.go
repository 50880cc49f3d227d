package nodetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/cgroup"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientdir"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/processhost"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// CgroupRoot is where the kernel shows control groups.
const CgroupRoot = "/sys/fs/cgroup"

// processes are a node's clients that run without pods.
type processes struct {
	// group is the name of their control groups, of this test alone.
	group string
}

// NewProcessNode is NewNode for a node whose clients run as processes.
func NewProcessNode(tb testing.TB) *Node {
	tb.Helper()
	return newNode(tb, (*Node).UseProcesses)
}

// UseProcesses makes the next mount manager run new clients as processes.
func (n *Node) UseProcesses() {
	var random [4]byte
	_, _ = rand.Read(random[:]) // Never fails: see crypto/rand.
	n.processes = &processes{group: "juicefs-csi-test-" + hex.EncodeToString(random[:])}
}

func (n *Node) mode() store.ClientMode {
	if n.processes == nil {
		return store.ModePod
	}
	return store.ModeProcess
}

func (n *Node) host() manager.Host {
	n.tb.Helper()
	pods := mountpod.NewPods(n.Kubelet.Client, Namespace, "node", n.KubeletDir())
	if n.processes == nil {
		return pods
	}
	n.showClients()
	if err := os.MkdirAll(n.ProcessDir(), 0o700); err != nil {
		n.tb.Fatal(err)
	}
	tree, err := cgroup.Find(CgroupRoot, n.processes.group)
	if err != nil {
		n.tb.Fatal(err)
	}
	return manager.Hosts{Mode: store.ModeProcess, ByMode: map[store.ClientMode]manager.Host{
		store.ModePod: pods,
		store.ModeProcess: processhost.New(processhost.Options{
			Dir: n.ProcessDir(), ClientDir: n.path("client"), Cgroups: tree, Log: n.log,
			Namespaces: fmt.Sprintf("/proc/%d/ns", os.Getpid()),
		}),
	}}
}

// ProcessDir holds a directory for each client that runs as a process.
func (n *Node) ProcessDir() string { return n.path("process") }

// CgroupPaths are the groups of one process that exist; id may be a pattern.
func (n *Node) CgroupPaths(id string) []string {
	found, _ := filepath.Glob(filepath.Join(CgroupRoot, "*", n.processes.group, id)) // The pattern is right.
	unified, _ := filepath.Glob(filepath.Join(CgroupRoot, n.processes.group, id))
	return slices.DeleteFunc(append(found, unified...), func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || !info.IsDir()
	})
}

// showClients fills the directory of clients as an init container would.
func (n *Node) showClients() {
	n.tb.Helper()
	for image, program := range clients(n.tb) {
		dir, err := clientdir.Path(n.path("client"), image)
		if err != nil {
			n.tb.Fatal(err)
		}
		target := filepath.Join(dir, "usr/local/bin/juicefs")
		if _, err := os.Stat(target); err == nil {
			continue
		}
		for _, sub := range []string{"usr/local/bin", "bin"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil { //nolint:gosec // as in an image
				n.tb.Fatal(err)
			}
		}
		if err := bind(program, target, true); err != nil {
			n.tb.Fatal(err)
		}
		if err := os.Symlink("/usr/local/bin/juicefs", filepath.Join(dir, "bin/mount.juicefs")); err != nil {
			n.tb.Fatal(err)
		}
	}
}

// removeProcesses ends what a failed test has left.
func (n *Node) removeProcesses() {
	if n.processes == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	host := n.host()
	entries, _ := os.ReadDir(n.ProcessDir()) // There may have been none.
	for _, entry := range entries {
		client := store.Client{Mode: store.ModeProcess, PodUID: entry.Name()}
		if err := host.Delete(ctx, client, 0); err != nil {
			n.tb.Errorf("delete process %s: %v", entry.Name(), err)
		}
	}
	groups, _ := filepath.Glob(filepath.Join(CgroupRoot, "*", n.processes.group)) // The pattern is right.
	for _, group := range append(groups, filepath.Join(CgroupRoot, n.processes.group)) {
		_ = os.Remove(group) // Not all hierarchies have it.
	}
}
