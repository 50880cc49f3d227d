//go:build kernel

package probe_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
)

// A mount whose client is dead costs nothing but a process until its connection
// is aborted, and nothing at all after that. This process holds its descriptor,
// as the mount manager does.
func TestADeadMount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mount")
	_, minor := clienttest.Unserved(t, path, volume.KernelMount{Source: "JuiceFS:dead"})
	prober := newProber()
	goroutines, descriptors := runtime.NumGoroutine(), count(t)
	for name, ask := range map[string]func(ctx context.Context) error{
		"usage": func(ctx context.Context) error { _, err := prober.Usage(ctx, "mount", path); return err },
		"ready": func(ctx context.Context) error { _, err := prober.Ready(ctx, path); return err },
		"tree": func(ctx context.Context) error {
			_, err := prober.Tree(ctx, probe.TreeRequest{MountPath: path, Minor: minor, Directory: "a/b"})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := ask(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s = %v, want deadline exceeded", name, err)
		}
	}
	stop, err := prober.Wake(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := kernelmount.Abort(path, minor); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every probe has ended", func() bool { return children(t) == 0 })
	eventually(t, "no goroutine and no descriptor is left", func() bool {
		return runtime.NumGoroutine() <= goroutines && count(t) <= descriptors
	})
}

// A client that has taken a request and does not answer it keeps the process
// that asked from ending, however it is killed.
func TestAClientThatHangs(t *testing.T) {
	path, fuse := hanging(t)
	prober := newProber()
	stalled := make(chan error, 1)
	go func() { stalled <- serveInit(fuse) }()
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := prober.Usage(ctx, "mount", path)
		return err
	}
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("usage = %v, want deadline exceeded", err)
	}
	if err := <-stalled; err != nil {
		t.Fatal(err)
	}
	// From some moment on it answers although the caller has no deadline.
	if _, err := prober.Usage(t.Context(), "mount", path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("usage = %v, want deadline exceeded at once", err)
	}
	if found := children(t); found != 1 {
		t.Errorf("%d processes", found)
	}
}

// hanging is a mount whose connection nobody reads; it is aborted with the
// test, and then nothing may be left of its probes.
func hanging(t *testing.T) (string, *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mount")
	t.Cleanup(func() { eventually(t, "every probe has ended", func() bool { return children(t) == 0 }) })
	fuse, _ := clienttest.Unserved(t, path, volume.KernelMount{Source: "JuiceFS:hangs"})
	return path, fuse
}

// serveInit answers INIT and takes one more request.
func serveInit(fuse *os.File) error {
	buffer := make([]byte, 1<<17+4096)
	if _, err := fuse.Read(buffer); err != nil {
		return err
	}
	// struct fuse_out_header and struct fuse_init_out of linux/fuse.h.
	reply := make([]byte, 16+64)
	binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
	copy(reply[8:16], buffer[8:16]) // unique
	for index, value := range []uint32{7, 31, 1 << 17, 0, 12 | 9<<16, 1 << 17, 1} {
		binary.NativeEndian.PutUint32(reply[16+4*index:], value)
	}
	if _, err := fuse.Write(reply); err != nil {
		return err
	}
	_, err := fuse.Read(buffer)
	return err
}

func count(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A tree comes from a real file system that is mounted for this test: tmpfs
// answers without a client.
func TestTree(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	var stat unix.Stat_t
	if err := unix.Stat(root, &stat); err != nil {
		t.Fatal(err)
	}
	minor := unix.Minor(stat.Dev)
	for _, link := range []string{"/", ".."} {
		if err := os.Symlink(link, filepath.Join(root, "to-"+strings.ReplaceAll(link, "/", "root"))); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		directory string
		minor     uint32
		readOnly  bool
		want      string
	}{
		"a new directory":     {"a/b/c", minor, false, ""},
		"one that is there":   {"a/b", minor, true, ""},
		"a link to the root":  {"to-root/etc", minor, false, "to-root of the file system"},
		"a link upwards":      {"to-..", minor, false, "to-.. of the file system"},
		"upwards":             {"../etc", minor, false, ".. of the file system"},
		"another file system": {"a", minor + 1, false, "is not mounted"},
	} {
		request := probe.TreeRequest{MountPath: root, Minor: c.minor, Directory: c.directory, ReadOnly: c.readOnly}
		tree, err := newProber().Tree(t.Context(), request)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want an error with %q", name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkTree(t, name, tree, c.directory, c.readOnly)
	}
}

func checkTree(t *testing.T, name string, tree *os.File, directory string, readOnly bool) {
	t.Helper()
	defer tree.Close()
	target := t.TempDir()
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	entry, err := mountinfo.ByPath(target)
	if err != nil || entry.Root != "/"+directory || slices.Contains(entry.Options, "ro") != readOnly {
		t.Errorf("%s: %+v, %v", name, entry, err)
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("%s: %v, %v", name, info.Mode(), err)
	}
}
