//go:build kernel

package reattach_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/reattach"
)

// TestMain makes this program the process of a job when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "reattach" {
		os.Exit(m.Run())
	}
	report, err := reattach.Main(os.Args[2])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func do(t *testing.T, job reattach.Job) (reattach.Report, error) {
	t.Helper()
	argument, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "reattach", string(argument))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return reattach.Report{}, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var report reattach.Report
	return report, json.Unmarshal(output, &report)
}

// served is a connection that nobody serves: what is done with its root needs
// nobody.
type served struct {
	path  string
	minor uint32
}

func newMount(t *testing.T, path string) served {
	t.Helper()
	_, minor := clienttest.Unserved(t, path, volume.KernelMount{Source: "JuiceFS:test", Flags: unix.MS_NOSUID})
	return served{path: path, minor: minor}
}

func root(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := kernelmount.OpenMount(unix.AT_FDCWD, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

// cover mounts m over whatever is at target.
func cover(t *testing.T, m served, target string) {
	t.Helper()
	tree, err := kernelmount.Clone(int(root(t, m.path).Fd()), kernelmount.Attributes{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAnAttemptBeforeHasLeft(t *testing.T) {
	directory := t.TempDir()
	old, m := newMount(t, filepath.Join(directory, "old")), newMount(t, filepath.Join(directory, "new"))
	job := reattach.Job{Connection: reattach.Connection{Minor: m.minor, Lost: []uint32{old.minor}}, MountPath: m.path}
	for name, c := range map[string]struct {
		lower, upper served
		readOnly     bool
		depth        int
	}{
		"nothing":                  {lower: old, depth: 1},
		"read-only":                {lower: old, readOnly: true, depth: 1},
		"the new one below":        {lower: m, upper: old, depth: 1},
		"a writable one on the ro": {lower: old, upper: m, readOnly: true, depth: 2},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "target")
			if err := kernelmount.Attach(c.lower.path, c.lower.minor, target, c.readOnly); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = kernelmount.Remove(target) })
			if c.upper.path != "" {
				cover(t, c.upper, target)
			}
			job.Paths = []string{target}
			for i, want := range [][]string{{target}, nil} {
				report, err := do(t, job)
				if err != nil || len(report.Left) > 0 || !slices.Equal(report.Replaced, want) {
					t.Errorf("run %d: %+v, %v", i, report, err)
				}
			}
			entries, err := mountinfo.All()
			if err != nil {
				t.Fatal(err)
			}
			entries = slices.DeleteFunc(entries, func(e mountinfo.Entry) bool { return e.Path != target })
			top, err := mountinfo.ByPath(target)
			if err != nil || len(entries) != c.depth || top.Minor != m.minor || top.ReadOnly() != c.readOnly {
				t.Errorf("it shows %+v of %+v, %v", top, entries, err)
			}
		})
	}
}

func TestAJobThatCannotBeDone(t *testing.T) {
	directory := t.TempDir()
	m := newMount(t, filepath.Join(directory, "new"))
	for name, change := range map[string]func(*reattach.Job){
		"another device":             func(j *reattach.Job) { j.Minor++ },
		"no mount":                   func(j *reattach.Job) { j.MountPath = directory },
		"a process that has ended":   func(j *reattach.Job) { j.Namespace = &reattach.Namespace{PID: 1 << 30, Inode: 1} },
		"another process of its pid": func(j *reattach.Job) { j.Namespace = &reattach.Namespace{PID: 1, Inode: 1} },
	} {
		job := reattach.Job{Connection: reattach.Connection{Minor: m.minor}, MountPath: m.path}
		change(&job)
		if report, err := do(t, job); err == nil {
			t.Errorf("%s: %+v", name, report)
		}
	}
}
