package clienttest

import (
	"os"
	"testing"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

// Unserved makes a kernel mount at path that nobody serves, by the mount
// manager's own code, and returns its descriptor and its device minor. With the
// test the connection is aborted, the mount removed and the descriptor closed.
func Unserved(tb testing.TB, path string, mount volume.KernelMount) (fuse *os.File, minor uint32) {
	tb.Helper()
	if err := kernelmount.MountConnections(); err != nil {
		tb.Fatal(err)
	}
	fuse, minor, err := kernelmount.Mount(path, mount)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := kernelmount.Abort(path, minor); err != nil {
			tb.Error(err)
		}
		if err := kernelmount.Remove(path); err != nil {
			tb.Error(err)
		}
		_ = fuse.Close()
	})
	return fuse, minor
}
