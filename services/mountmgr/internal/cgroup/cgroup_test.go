package cgroup_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/cgroup"
)

// fakeRoot makes files as a kernel would have them; it cannot refuse anything.
func fakeRoot(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, file := range files {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAProcessLeavesEveryHierarchyOfVersionOne(t *testing.T) {
	const id = "0123456789abcdef"
	root := fakeRoot(t,
		"memory/cgroup.procs", "cpu,cpuacct/cgroup.procs", "cpuset/cgroup.procs", "devices/cgroup.procs",
		"systemd/cgroup.procs", "unified/cgroup.procs", "other/file",
		"memory/juicefs-csi/"+id+"/memory.limit_in_bytes", "memory/juicefs-csi/"+id+"/cgroup.procs",
		"cpu,cpuacct/juicefs-csi/"+id+"/cpu.cfs_quota_us", "cpu,cpuacct/juicefs-csi/"+id+"/cgroup.procs",
		"devices/juicefs-csi/cgroup.procs", "systemd/juicefs-csi/cgroup.procs", "unified/juicefs-csi/cgroup.procs",
	)
	tree, err := cgroup.Find(root, "juicefs-csi")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Make(id, cgroup.Limits{Memory: 1 << 30, MilliCPU: 2500}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Put(id, 42); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"memory/juicefs-csi/" + id + "/memory.limit_in_bytes": "1073741824",
		"cpu,cpuacct/juicefs-csi/" + id + "/cpu.cfs_quota_us": "250000",
		"memory/juicefs-csi/" + id + "/cgroup.procs":          "42",
		"cpu,cpuacct/juicefs-csi/" + id + "/cgroup.procs":     "42",
		"devices/juicefs-csi/cgroup.procs":                    "42",
		"systemd/juicefs-csi/cgroup.procs":                    "42",
		"unified/juicefs-csi/cgroup.procs":                    "42",
		"cpuset/cgroup.procs":                                 "42",
	} {
		if got := content(t, filepath.Join(root, path)); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if ids := tree.List(); !slices.Equal(ids, []string{id}) {
		t.Errorf("groups %v", ids)
	}
}

func TestVersionTwo(t *testing.T) {
	const id = "0123456789abcdef"
	root := fakeRoot(t, "cgroup.controllers", "cgroup.subtree_control", "juicefs-csi/cgroup.subtree_control",
		"juicefs-csi/"+id+"/memory.max", "juicefs-csi/"+id+"/cpu.max", "juicefs-csi/"+id+"/cgroup.procs")
	tree, err := cgroup.Find(root, "juicefs-csi")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Make(id, cgroup.Limits{Memory: 5 << 30, MilliCPU: 5000}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"juicefs-csi/" + id + "/memory.max": "5368709120", "juicefs-csi/" + id + "/cpu.max": "500000 100000",
	} {
		if got := content(t, filepath.Join(root, path)); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if enabled := content(t, filepath.Join(root, "cgroup.subtree_control")); !strings.HasPrefix(enabled, "+") {
		t.Errorf("enabled %q", enabled)
	}
}

func TestALimitThatCannotBeSetIsAnError(t *testing.T) {
	root := fakeRoot(t, "cgroup.controllers", "cgroup.subtree_control", "juicefs-csi/cgroup.subtree_control")
	tree, err := cgroup.Find(root, "juicefs-csi")
	if err != nil {
		t.Fatal(err)
	}
	err = tree.Make("a", cgroup.Limits{Memory: 1 << 30})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--process-cgroup") {
		t.Errorf("make without the controller memory: %v", err)
	}
	if err := tree.Remove(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := tree.Remove(t.Context(), "a"); err != nil {
		t.Errorf("remove again: %v", err)
	}
	if _, err := cgroup.Find(t.TempDir(), "x"); !errdefs.IsNotFound(err) {
		t.Errorf("no cgroups: %v", err)
	}
	if err := (cgroup.Tree{}).Make("a", cgroup.Limits{Memory: 1, MilliCPU: 1}); err != nil {
		t.Errorf("without cgroups: %v", err)
	}
}
