//go:build kernel

package probe_test

import (
	"context"
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
		"usage": func(ctx context.Context) error { _, err := prober.Usage(ctx, path); return err },
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

func count(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
