package reattach

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeProc is a proc file system with these processes; a namespace is a file,
// which has an inode too.
func fakeProc(t *testing.T, processes map[string]process) string {
	t.Helper()
	proc := t.TempDir()
	for name, p := range processes {
		directory := filepath.Join(proc, name)
		namespace := filepath.Join(proc, "namespace-"+p.namespace)
		for _, err := range []error{
			os.MkdirAll(filepath.Join(directory, "ns"), 0o700),
			os.WriteFile(namespace, nil, 0o600),
			os.Symlink(namespace, filepath.Join(directory, "ns/mnt")),
			os.WriteFile(filepath.Join(directory, "cgroup"), []byte(p.cgroup), 0o600),
			os.WriteFile(filepath.Join(directory, "mountinfo"), []byte(p.mounts), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return proc
}

type process struct{ namespace, cgroup, mounts string }

func TestNamespaces(t *testing.T) {
	const (
		lost  = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:50 / /data rw - fuse.juicefs JuiceFS:x rw\n"
		fresh = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:60 / /data rw - fuse.juicefs JuiceFS:x rw\n"
		pod   = "0::/kubepods/burstable/poda-b/0123\n"
	)
	proc := fakeProc(t, map[string]process{
		"self": {"host", "", ""},
		"1":    {"host", "0::/init.scope\n", lost},
		"10":   {"one", pod, lost},
		"11":   {"one", pod, lost},
		"12":   {"two", "1:name=systemd:/kubepods.slice/kubepods-poda_b.slice/cri.scope\n", lost},
		"13":   {"three", pod, fresh},
		"14":   {"four", "0::/kubepods/burstable/podother/0123\n", lost},
		"15":   {"host", pod, lost},
	})
	if err := os.Mkdir(filepath.Join(proc, "16"), 0o700); err != nil { // It ends while we look.
		t.Fatal(err)
	}
	found, err := Namespaces(proc, []string{"a-b"}, connection())
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, each := range found {
		pids = append(pids, each.PID)
		if each.Inode == 0 {
			t.Errorf("%+v has no inode", each)
		}
	}
	if diff := cmp.Diff([]int{10, 12}, pids); diff != "" {
		t.Error(diff)
	}
}
