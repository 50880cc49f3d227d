//go:build kernel

package probe_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

// A mount whose client is dead costs nothing but a process until its connection
// is aborted, and nothing at all after that. This process holds its descriptor,
// as the mount manager does.
func TestADeadMount(t *testing.T) {
	if err := kernelmount.MountConnections(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mount")
	fuse, minor, err := kernelmount.Mount(path, volume.KernelMount{Source: "JuiceFS:dead"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = kernelmount.Abort(path, minor)
		if err := kernelmount.Remove(path); err != nil {
			t.Error(err)
		}
		_ = fuse.Close()
	})
	prober := newProber()
	goroutines, descriptors := runtime.NumGoroutine(), count(t)
	for name, ask := range map[string]func(ctx context.Context) error{
		"usage": func(ctx context.Context) error { _, err := prober.Usage(ctx, "mount", path); return err },
		"ready": func(ctx context.Context) error { _, err := prober.Ready(ctx, path); return err },
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
	if err := kernelmount.MountConnections(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mount")
	fuse, minor, err := kernelmount.Mount(path, volume.KernelMount{Source: "JuiceFS:hangs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = kernelmount.Abort(path, minor)
		if err := kernelmount.Remove(path); err != nil {
			t.Error(err)
		}
		_ = fuse.Close()
		eventually(t, "every probe has ended", func() bool { return children(t) == 0 })
	})
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
