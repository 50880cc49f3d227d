package mountinfo

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

const sample = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
50 22 0:45 / /var/lib/juicefs/volume/pvc-1 rw,nosuid,nodev,relatime shared:9 - fuse.juicefs JuiceFS:myjfs rw,user_id=0,group_id=0
70 22 0:46 / /mnt/with\040space\011tab\134back rw - fuse.juicefs JuiceFS:a\040b ro,user_id=0
91 90 0:47 /sub /target ro,relatime - fuse.juicefs JuiceFS:myjfs rw
90 22 0:45 / /target rw,relatime - fuse.juicefs JuiceFS:myjfs rw
`

func all(t *testing.T) []Entry {
	t.Helper()
	entries, err := parse(strings.NewReader(sample), nil)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestParse(t *testing.T) {
	entries := all(t)
	want := Entry{
		ID: 50, Parent: 22, Path: "/var/lib/juicefs/volume/pvc-1", Root: "/", Source: "JuiceFS:myjfs", FSType: "fuse.juicefs",
		Major: 0, Minor: 45, Options: []string{"rw", "nosuid", "nodev", "relatime"},
		SuperOptions: []string{"rw", "user_id=0", "group_id=0"},
	}
	if diff := cmp.Diff(want, entries[1]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := entries[2]; got.Path != "/mnt/with space\ttab\\back" || got.Source != "JuiceFS:a b" {
		t.Errorf("escapes: %q, %q", got.Path, got.Source)
	}
	for index, want := range []bool{false, false, true, true, false} {
		if got := entries[index].ReadOnly(); got != want {
			t.Errorf("entry %d: read-only %v, want %v", index, got, want)
		}
	}
	if _, err := parse(strings.NewReader("nonsense\n"), nil); err == nil {
		t.Error("nonsense was accepted")
	}
}

// The mount that is attached to another one is on top, in whatever order the
// kernel tells them.
func TestTopmost(t *testing.T) {
	stacked := all(t)[3:]
	for _, order := range [][]Entry{{stacked[0], stacked[1]}, {stacked[1], stacked[0]}} {
		if got, ok := topmost(order); !ok || got.ID != 91 {
			t.Errorf("topmost of %d, %d is %d", order[0].ID, order[1].ID, got.ID)
		}
	}
	if _, ok := topmost(nil); ok {
		t.Error("topmost of none")
	}
	root := []Entry{{ID: 1, Parent: 1, Path: "/"}}
	if got, ok := topmost(root); !ok || got.ID != 1 {
		t.Error("a root that is its own parent is not found")
	}
}

func TestThisProcess(t *testing.T) {
	proc, err := ByPath("/proc")
	if err != nil || proc.FSType != "proc" {
		t.Fatalf("/proc: %v, %v", proc, err)
	}
	same, err := ByDevice(proc.Major, proc.Minor)
	if err != nil || !contains(same, proc.ID) {
		t.Errorf("mounts of device %d:%d: %v, %v", proc.Major, proc.Minor, same, err)
	}
	below, err := Below("/proc/")
	if err != nil || !contains(below, proc.ID) {
		t.Errorf("mounts below /proc: %v, %v", below, err)
	}
	everything, err := All()
	if err != nil || !contains(everything, proc.ID) {
		t.Errorf("all mounts: %v, %v", everything, err)
	}
	if _, err := ByPath(filepath.Join("/proc", strconv.Itoa(os.Getpid()))); !errdefs.IsNotFound(err) {
		t.Errorf("no mount point: %v", err)
	}
	for _, entry := range below {
		if entry.Path != "/proc" && !strings.HasPrefix(entry.Path, "/proc/") {
			t.Errorf("%s is not below /proc", entry.Path)
		}
	}
}

func contains(entries []Entry, id int) bool {
	for _, entry := range entries {
		if entry.ID == id {
			return true
		}
	}
	return false
}
