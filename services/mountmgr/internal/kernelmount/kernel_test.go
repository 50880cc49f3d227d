//go:build kernel

package kernelmount_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

// patience is far more than anything here takes; only what waits for a client
// reaches it, and no connection of these tests has one.
const patience = 20 * time.Second

// within fails the test when do waits for the client of connection minor, which
// it then aborts so that the process can end.
func within(t *testing.T, what, path string, minor uint32, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		_ = kernelmount.Abort(path, minor)
		t.Fatalf("%s waits for a client", what)
		return nil
	}
}

// served is a kernel mount of a test.
type served struct {
	path  string
	minor uint32
	fuse  *os.File
}

// newMount makes a connection that nobody serves.
func newMount(t *testing.T, directory, name string) served {
	t.Helper()
	path := filepath.Join(directory, name)
	fuse, minor := clienttest.Unserved(t, path, volume.KernelMount{
		Source: "JuiceFS:test", Flags: unix.MS_NOSUID | unix.MS_NODEV, MaxRead: 131072, DefaultPermissions: true,
	})
	return served{path: path, minor: minor, fuse: fuse}
}

// scratch is a directory whose mounts are gone with the test, whatever it did.
func scratch(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	t.Cleanup(func() {
		entries, err := mountinfo.Below(directory)
		if err != nil {
			t.Error(err)
		}
		for range entries {
			for _, entry := range entries {
				_ = unix.Unmount(entry.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			}
		}
		for _, entry := range entries {
			_ = kernelmount.Remove(entry.Path) // Its directory may be immutable.
		}
	})
	return directory
}

func attach(t *testing.T, m served, target string, readOnly bool) error {
	t.Helper()
	return within(t, "Attach", m.path, m.minor, func() error { return kernelmount.Attach(m.path, m.minor, target, readOnly) })
}

func remove(t *testing.T, m served, target string) error {
	t.Helper()
	return within(t, "Remove", m.path, m.minor, func() error { return kernelmount.Remove(target) })
}

// stack is what is mounted at path, the topmost last.
func stack(t *testing.T, path string) []mountinfo.Entry {
	t.Helper()
	entries, err := mountinfo.All()
	if err != nil {
		t.Fatal(err)
	}
	var found []mountinfo.Entry
	for _, entry := range entries {
		if entry.Path == path {
			found = append(found, entry)
		}
	}
	return found
}

func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s is there (%v)", path, err)
	}
}

func tmpfs(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("other", path, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
}

func TestMountAndRemove(t *testing.T) {
	m := newMount(t, scratch(t), "mount")
	entries := stack(t, m.path)
	if len(entries) != 1 || entries[0].FSType != kernelmount.FSType || entries[0].Source != "JuiceFS:test" || entries[0].Minor != m.minor {
		t.Fatalf("mounted: %+v, want one mount of device 0:%d", entries, m.minor)
	}
	flags, err := unix.FcntlInt(m.fuse.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x (%v) of the descriptor: clients would see EAGAIN", flags, err)
	}
	for range 2 {
		if err := remove(t, m, m.path); err != nil {
			t.Fatal(err)
		}
	}
	missing(t, m.path)
}

func TestAFailedMountLeavesNothing(t *testing.T) {
	path := filepath.Join(scratch(t), "mount")
	if _, _, err := kernelmount.Mount(path, volume.KernelMount{Source: "JuiceFS:test", Flags: unix.MS_REMOUNT}); err == nil {
		t.Fatal("a remount of nothing succeeded")
	}
	missing(t, path)
}

func TestAttach(t *testing.T) {
	for name, readOnly := range map[string]bool{"writable": false, "read-only": true} {
		t.Run(name, func(t *testing.T) {
			directory := scratch(t)
			m, target := newMount(t, directory, "mount"), filepath.Join(directory, "pods", "target")
			if attached, err := kernelmount.Attached(target, m.minor); attached || err != nil {
				t.Errorf("Attached = %v, %v before", attached, err)
			}
			for range 2 { // The second changes nothing.
				if err := attach(t, m, target, readOnly); err != nil {
					t.Fatal(err)
				}
			}
			entries := stack(t, target)
			if len(entries) != 1 || entries[0].Minor != m.minor || entries[0].ReadOnly() != readOnly {
				t.Errorf("at the target: %+v", entries)
			}
			if of := stack(t, m.path); len(of) != 1 || of[0].ReadOnly() {
				t.Errorf("the mount itself: %+v, want one writable", of)
			}
			attached, err := kernelmount.Attached(target, m.minor)
			if !attached || err != nil {
				t.Errorf("Attached = %v, %v", attached, err)
			}
			if err := remove(t, m, target); err != nil {
				t.Fatal(err)
			}
			missing(t, target)
		})
	}
}

func TestAttachRefusesATargetOfAnother(t *testing.T) {
	directory := scratch(t)
	m, other := newMount(t, directory, "mount"), newMount(t, directory, "other")
	disk, fuse := filepath.Join(directory, "disk"), filepath.Join(directory, "fuse")
	tmpfs(t, disk)
	if err := attach(t, other, fuse, false); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{disk, fuse} {
		before := stack(t, target)
		if err := attach(t, m, target, false); !errdefs.IsAlreadyExists(err) {
			t.Errorf("attach to %s: %v, want already exists", target, err)
		}
		if after := stack(t, target); len(after) != 1 || after[0].Minor != before[0].Minor {
			t.Errorf("%s shows %+v, showed %+v", target, after, before)
		}
	}
}

func TestAttachOfAMountThatIsGoneLeavesNothing(t *testing.T) {
	directory := scratch(t)
	m, target := newMount(t, directory, "mount"), filepath.Join(directory, "target")
	if err := remove(t, m, m.path); err != nil {
		t.Fatal(err)
	}
	if err := attach(t, m, target, false); !errdefs.IsUnavailable(err) {
		t.Errorf("attach of a mount that is gone: %v, want unavailable", err)
	}
	// The directory alone must not be shown in its place.
	if err := os.Mkdir(m.path, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := attach(t, m, target, false); !errdefs.IsUnavailable(err) {
		t.Errorf("attach of a directory on the disk: %v, want unavailable", err)
	}
	missing(t, target)
}

func TestAFailedAttachLeavesNothing(t *testing.T) {
	directory := scratch(t)
	m, file := newMount(t, directory, "mount"), filepath.Join(directory, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{file, filepath.Join(file, "below")} {
		if err := attach(t, m, target, false); err == nil {
			t.Errorf("attached to %s", target)
		}
	}
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || len(stack(t, file)) != 0 {
		t.Errorf("the file is %v (%v), with %v on it", info, err, stack(t, file))
	}
}

func TestRemoveTakesTheWholeStack(t *testing.T) {
	directory := scratch(t)
	m, target := newMount(t, directory, "mount"), filepath.Join(directory, "target")
	if err := attach(t, m, target, false); err != nil {
		t.Fatal(err)
	}
	// Over a mount that nobody serves only another mount call may go.
	for range 3 {
		tree, err := unix.OpenTree(unix.AT_FDCWD, m.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		_ = unix.Close(tree)
		if err != nil {
			t.Fatal(err)
		}
	}
	if count := len(stack(t, target)); count != 4 {
		t.Fatalf("%d mounts are stacked, want 4", count)
	}
	if err := remove(t, m, target); err != nil {
		t.Fatal(err)
	}
	missing(t, target)
}

func TestRemoveKeepsWhatLiesOnTheDisk(t *testing.T) {
	directory := scratch(t)
	m, target := newMount(t, directory, "mount"), filepath.Join(directory, "target")
	kept := filepath.Join(target, "kept")
	if err := os.MkdirAll(target, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := attach(t, m, target, false); err != nil {
		t.Fatal(err)
	}
	for range 2 { // With and without a mount over it.
		if err := remove(t, m, target); err == nil {
			t.Error("a directory that is not empty was removed")
		}
		if text, err := os.ReadFile(kept); err != nil || string(text) != "x" {
			t.Errorf("the file on the disk holds %q (%v)", text, err)
		}
	}
	if count := len(stack(t, target)); count != 0 {
		t.Errorf("%d mounts are left over it", count)
	}
}

// A process that waits for a client ends when its connection is aborted.
func TestWaitingAndAbort(t *testing.T) {
	m := newMount(t, scratch(t), "mount")
	idle := waiting(t, m)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	visitor := exec.CommandContext(ctx, "stat", m.path) // Starts with no descriptor of ours.
	if err := visitor.Start(); err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for waiting(t, m) <= idle {
		select {
		case <-ctx.Done():
			t.Fatalf("%d requests wait, %d did before", waiting(t, m), idle)
		case <-ticker.C:
		}
	}
	for range 2 {
		if err := kernelmount.Abort(m.path, m.minor); err != nil {
			t.Fatal(err)
		}
	}
	if err := visitor.Wait(); err == nil || ctx.Err() != nil {
		t.Errorf("the visitor ended with %v (%v), want an error at once", err, ctx.Err())
	}
	if err := remove(t, m, m.path); err != nil {
		t.Fatal(err)
	}
	_ = m.fuse.Close()
	waiting(t, m) // The number may be another connection's by now.
	if err := kernelmount.Abort(m.path, m.minor); err != nil {
		t.Errorf("abort of a connection that is gone: %v", err)
	}
}

func waiting(t *testing.T, m served) uint64 {
	t.Helper()
	count, err := kernelmount.Waiting(m.minor)
	if err != nil {
		t.Fatal(err)
	}
	return count
}
