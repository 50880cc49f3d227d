//go:build kernel

package kernelmount_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

func attachOver(t *testing.T, m, previous served, target string, readOnly bool) error {
	t.Helper()
	return within(t, "Attach", m.path, m.minor, func() error {
		return kernelmount.Attach(m.path, m.minor, target, readOnly, previous.minor)
	})
}

func TestAttachReplacesALostConnection(t *testing.T) {
	directory := scratch(t)
	old, m := newMount(t, directory, "old"), newMount(t, directory, "new")
	for _, readOnly := range []bool{false, true} {
		target := filepath.Join(directory, "target")
		if err := attach(t, old, target, readOnly); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := attachOver(t, m, old, target, readOnly); err != nil {
				t.Fatal(err)
			}
			shown := stack(t, target)
			if len(shown) != 1 || shown[0].Minor != m.minor || slices.Contains(shown[0].Options, "ro") != readOnly {
				t.Errorf("read-only %v: the target shows %+v, want device %d alone", readOnly, shown, m.minor)
			}
		}
		if err := remove(t, m, target); err != nil {
			t.Fatal(err)
		}
		missing(t, target)
	}
}

// open returns the root of what is mounted at path.
func open(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := kernelmount.OpenMount(unix.AT_FDCWD, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func clone(t *testing.T, m served) *os.File {
	t.Helper()
	tree, err := kernelmount.Clone(int(open(t, m.path).Fd()), kernelmount.Attributes{ReadOnly: true, NoExec: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree
}

func TestReplace(t *testing.T) {
	for name, c := range map[string]struct {
		replace func(tree, old int, proc string) error
		depth   int
	}{
		"beneath": {kernelmount.Replace, 1},
		"covered": {kernelmount.Cover, 2},
	} {
		t.Run(name, func(t *testing.T) {
			directory := scratch(t)
			old, m, target := newMount(t, directory, "old"), newMount(t, directory, "new"), filepath.Join(directory, "target")
			if err := attach(t, old, target, false); err != nil {
				t.Fatal(err)
			}
			root := open(t, target)
			if err := c.replace(int(clone(t, m).Fd()), int(root.Fd()), "/proc"); err != nil {
				t.Fatal(err)
			}
			shown := stack(t, target)
			if top := shown[len(shown)-1]; len(shown) != c.depth || top.Minor != m.minor || !slices.Contains(top.Options, "noexec") {
				t.Errorf("the target shows %+v, want %d mounts with device %d on top", shown, c.depth, m.minor)
			}
			if attached, err := kernelmount.Attached(target, m.minor); err != nil || !attached {
				t.Errorf("attached: %v, %v", attached, err)
			}
			if err := remove(t, m, target); err != nil {
				t.Fatal(err)
			}
			missing(t, target)
			if err := c.replace(int(clone(t, m).Fd()), int(root.Fd()), "/proc"); err == nil {
				t.Errorf("replace of what is not mounted any more succeeds")
			}
		})
	}
}

// A target can be unpublished while it shows both connections.
func TestDetachTakesOneMount(t *testing.T) {
	directory := scratch(t)
	m, target := newMount(t, directory, "mount"), filepath.Join(directory, "target")
	if err := attach(t, m, target, false); err != nil {
		t.Fatal(err)
	}
	root := open(t, target)
	for range 2 {
		if err := kernelmount.Detach(int(root.Fd()), "/proc"); err != nil {
			t.Fatal(err)
		}
		if shown := stack(t, target); len(shown) != 0 {
			t.Errorf("the target shows %+v", shown)
		}
	}
	if err := remove(t, m, target); err != nil {
		t.Fatal(err)
	}
}

// What lies below a target cannot be written, also by root, and goes with it.
func TestTheDirectoryBelowATargetIsImmutable(t *testing.T) {
	directory := scratch(t)
	m, target := newMount(t, directory, "mount"), filepath.Join(directory, "target")
	if err := attach(t, m, target, false); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(filepath.Join(target, "file"), nil, 0o600)
	if err == nil && !canBeImmutable(t, directory) {
		t.Logf("directories cannot be immutable below %s", directory)
		_ = os.Remove(filepath.Join(target, "file"))
	} else if err == nil {
		t.Error("a file was written to the node's disk")
	}
	// A mount manager that died before it could attach finds it so.
	if err := attach(t, m, target, false); err != nil {
		t.Fatal(err)
	}
	if err := remove(t, m, target); err != nil {
		t.Fatal(err)
	}
	missing(t, target)
}

func canBeImmutable(t *testing.T, path string) bool {
	t.Helper()
	directory, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	flags, err := unix.IoctlGetInt(int(directory.Fd()), unix.FS_IOC_GETFLAGS)
	return err == nil && unix.IoctlSetPointerInt(int(directory.Fd()), unix.FS_IOC_SETFLAGS, flags) == nil
}
