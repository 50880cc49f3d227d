//go:build devcluster

package devcluster

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// traces is what a cluster could leave on the machine.
type traces map[string][]string

func takeTraces(t *testing.T) traces {
	t.Helper()
	if _, ok := hostLinkOwner(); ok {
		t.Fatal("a cluster runs on this machine: take it down first")
	}
	return readTraces(t)
}

func readTraces(t *testing.T) traces {
	t.Helper()
	all := traces{}
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.target, testDir) || slices.Contains(privateDirs(), m.target) {
			all["mounts"] = append(all["mounts"], m.target)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		all["links"] = append(all["links"], link.Attrs().Name)
	}
	if all["cgroups"], err = cgroupDirs(layout{dir: testDir}.cgroup()); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(privateDirs(), testDir, testDir+".lock", "/etc/cni", "/usr/libexec/kubernetes") {
		if _, err := os.Lstat(path); err == nil {
			all["paths"] = append(all["paths"], path)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		all["routes"] = append(all["routes"], route.String())
	}
	return all
}

// checkNamespaces looks for processes in namespaces of a cluster that is gone.
func checkNamespaces(t *testing.T, gone map[string]namespaceID) {
	t.Helper()
	if len(gone) != 7 { // the control plane has one, a node three
		t.Errorf("the cluster had %d namespaces: %v", len(gone), gone)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		command, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if bytes.Contains(command, []byte(testDir)) {
			t.Errorf("process %s is left: %q", entry.Name(), command)
		}
		for name, want := range gone {
			_, kind, _ := strings.Cut(name, " ")
			if id, err := statNamespace("/proc/" + entry.Name() + "/ns/" + kind); err == nil && id == want {
				t.Errorf("process %s is left in the namespace %s: %q", entry.Name(), name, command)
			}
		}
	}
}

func (before traces) compare(t *testing.T) {
	t.Helper()
	after := readTraces(t)
	for kind, list := range after {
		for _, item := range list {
			if !slices.Contains(before[kind], item) {
				t.Errorf("left behind (%s): %s", kind, item)
			}
		}
	}
}
