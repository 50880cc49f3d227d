//go:build kernel

package mountinfo

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mountFUSE mounts a FUSE file system that nobody serves: whoever asks it for
// anything waits for ever.
func mountFUSE(t *testing.T, path string) {
	t.Helper()
	descriptor, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", descriptor)
	if err := unix.Mount("JuiceFS:test", path, "fuse.juicefs", unix.MS_NODEV, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := unix.Close(descriptor); err != nil {
			t.Error(err)
		}
	})
}

// within fails when find waits for a file system.
func within(t *testing.T, find func(string) (Entry, error), path string) (Entry, error) {
	t.Helper()
	type result struct {
		entry Entry
		err   error
	}
	done := make(chan result, 1)
	go func() {
		entry, err := find(path)
		done <- result{entry, err}
	}()
	select {
	case r := <-done:
		return r.entry, r.err
	case <-time.After(30 * time.Second):
		t.Fatal("looking for a mount waits for a file system that nobody serves")
		return Entry{}, nil
	}
}

func TestDeadFileSystem(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "mount with space")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ByPath(path); !errdefs.IsNotFound(err) {
		t.Errorf("before the mount: %v", err)
	}
	mountFUSE(t, path)
	found, err := within(t, ByPath, path)
	if err != nil || found.FSType != "fuse.juicefs" || found.Source != "JuiceFS:test" || found.Major != 0 {
		t.Fatalf("got %v, %v", found, err)
	}
	if haveStatmount(t) {
		fast, err := within(t, visible, path)
		table, tableErr := inTable(path)
		if err != nil || tableErr != nil {
			t.Fatalf("got %v and %v", err, tableErr)
		}
		if diff := cmp.Diff(table, fast); diff != "" {
			t.Errorf("(-table +statmount):\n%s", diff)
		}
	}
	// A path inside is not ours to look at: it must not be asked for either.
	if _, err := within(t, ByPath, filepath.Join(path, "a", "b")); !errdefs.IsNotFound(err) {
		t.Errorf("path inside: %v", err)
	}
	if _, err := within(t, ByPath, filepath.Join(path, "a")); !errdefs.IsNotFound(err) {
		t.Errorf("path inside: %v", err)
	}
}

func TestStack(t *testing.T) {
	path := t.TempDir()
	for index := range 3 {
		if err := unix.Mount(fmt.Sprintf("layer-%d", index), path, "tmpfs", unix.MS_RDONLY*uintptr(index%2), "size=4k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		want := fmt.Sprintf("layer-%d", index)
		found, err := ByPath(path)
		table, tableErr := inTable(path)
		if err != nil || tableErr != nil || found.Source != want || table.Source != want || found.ReadOnly() != (index%2 == 1) {
			t.Errorf("layer %d: %v, %v and %v, %v", index, found, err, table, tableErr)
		}
	}
}
