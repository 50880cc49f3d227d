package devcluster

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestPlanNodes(t *testing.T) {
	nodes := planNodes(maxNodes)
	if len(nodes) != maxNodes {
		t.Fatalf("got %d nodes, want %d", len(nodes), maxNodes)
	}
	if got := nodes[1]; got.Name != "node-2" || got.IP.String() != "10.77.0.12" || got.PodCIDR.String() != "10.78.2.0/24" {
		t.Errorf("second node is %+v", got)
	}
	bridge := netip.MustParsePrefix(ControlPlaneIP + "/24")
	pods, services := netip.MustParsePrefix(podCIDR), netip.MustParsePrefix(serviceCIDR)
	taken := map[netip.Addr]bool{netip.MustParseAddr(ControlPlaneIP): true, netip.MustParseAddr(HostIP): true}
	blocks := map[netip.Prefix]bool{}
	for _, node := range nodes {
		if !bridge.Contains(node.IP) || taken[node.IP] {
			t.Errorf("address %s of %s is outside the bridge or taken", node.IP, node.Name)
		}
		if !pods.Contains(node.PodCIDR.Addr()) || blocks[node.PodCIDR] {
			t.Errorf("pod block %s of %s is outside %s or taken", node.PodCIDR, node.Name, pods)
		}
		taken[node.IP], blocks[node.PodCIDR] = true, true
	}
	if pods.Overlaps(services) || pods.Overlaps(bridge.Masked()) || services.Overlaps(bridge.Masked()) {
		t.Error("address blocks overlap")
	}
	if !services.Contains(netip.MustParseAddr(apiServiceIP)) {
		t.Errorf("%s is not a Service address", apiServiceIP)
	}
	for _, name := range []string{bridgeName, hostLinkName, hostPeerName, nodeLinkPrefix + "16"} {
		if len(name) > 15 {
			t.Errorf("interface name %s is longer than the kernel takes", name)
		}
	}
}

func TestOptionsComplete(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		ok   bool
	}{
		"defaults":     {Options{Nodes: 2, CacheDir: "/c"}, true},
		"no nodes":     {Options{CacheDir: "/c"}, false},
		"many nodes":   {Options{Nodes: maxNodes + 1, CacheDir: "/c"}, false},
		"no cache":     {Options{Nodes: 1}, false},
		"relative dir": {Options{Nodes: 1, CacheDir: "/c", Dir: "x"}, false},
		"root dir":     {Options{Nodes: 1, CacheDir: "/c", Dir: "/"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.opts.complete()
			if (err == nil) != tc.ok || (err != nil && !errdefs.IsInvalidArgument(err)) {
				t.Errorf("complete: %v, want ok %v", err, tc.ok)
			}
			if err == nil && tc.opts.Dir != DefaultDir {
				t.Errorf("directory is %q", tc.opts.Dir)
			}
		})
	}
}

func TestDefaultCacheDir(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"/a":                       {"JUICEFS_CSI_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/h"},
		"/b/juicefs-csi":           {"XDG_CACHE_HOME": "/b", "HOME": "/h"},
		"/h/.cache/juicefs-csi":    {"HOME": "/h"},
		"/root/.cache/juicefs-csi": {},
	} {
		if got := DefaultCacheDir(func(name string) string { return env[name] }); got != want {
			t.Errorf("DefaultCacheDir(%v) = %s, want %s", env, got, want)
		}
	}
}

func TestLockExcludesAndLeavesNothing(t *testing.T) {
	l := layout{dir: filepath.Join(t.TempDir(), "cluster")}
	unlock, err := l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := l.lock(ctx); err == nil {
		t.Error("a held lock was taken")
	}
	unlock()
	unlock, err = l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if _, err := os.Stat(l.dir + ".lock"); !os.IsNotExist(err) {
		t.Errorf("the lock file is left: %v", err)
	}
}

func TestRequirementsNameThePackages(t *testing.T) {
	look := func(program string) (string, error) {
		if strings.Contains(program, "redis") || program == "runc" || program == "ctr" || program == "containerd" {
			return "", errdefs.ErrNotFound
		}
		return program, nil
	}
	err := missingTools(requirements(true), look)
	want := "missing: containerd, ctr, runc, redis-server; install with: apt-get install -y containerd runc redis-server"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if err := missingTools(requirements(false), func(p string) (string, error) { return p, nil }); err != nil {
		t.Errorf("nothing is missing, got %v", err)
	}
	if err := checkFuse("/dev/no-such-device"); err == nil || !strings.Contains(err.Error(), "modprobe fuse") {
		t.Errorf("missing device: %v", err)
	}
	if err := checkFuse("/etc/passwd"); err == nil {
		t.Error("a plain file passed for /dev/fuse")
	}
}

func TestRequirementsNameTheKernelModules(t *testing.T) {
	proc := t.TempDir()
	if err := os.WriteFile(filepath.Join(proc, "filesystems"), []byte("nodev\ttmpfs\n\text4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkKernel(proc); err == nil || !strings.Contains(err.Error(), "modprobe -a br_netfilter overlay") {
		t.Errorf("got %v", err)
	}
	if err := checkKernel("/proc"); err != nil {
		t.Errorf("this machine: %v", err)
	}
}
