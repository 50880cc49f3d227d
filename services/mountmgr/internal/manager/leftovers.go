package manager

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// removeLeftovers removes the mount points that a boot has left: directories
// below the mount root that are empty and no mount points. rmdir(2) refuses all
// others and asks no file system that is mounted there.
func (m *Manager) removeLeftovers(ctx context.Context, records []store.Record, kept map[string]bool) {
	root := m.options.Defaults.MountRoot
	entries, err := os.ReadDir(root)
	if err != nil {
		m.Log.WarnContext(ctx, "look for left-over mount points", logkeys.Path, root, logkeys.Error, err)
		return
	}
	ours := make(map[string]bool)
	for _, record := range records {
		if kept[record.ID] {
			ours[record.MountPath] = true
		}
	}
	for _, entry := range entries {
		path := filepath.Join(root, entry.Name())
		if ours[path] || !entry.IsDir() {
			continue
		}
		if err := unix.Rmdir(path); err == nil {
			m.Log.InfoContext(ctx, "removed a left-over mount point", logkeys.Path, path)
		}
	}
}

// vanished tells that nothing is left of a mount, and nothing that it could be
// made from: the node was reset without a boot of its kernel, as virtual nodes
// are. Its targets get new mounts when they are published again.
func (m *Manager) vanished(record store.Record) bool {
	if _, err := m.Secrets.Get(record.ID); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	mounted, err := kernelmount.Attached(record.MountPath, record.DeviceMinor)
	return err == nil && !mounted
}
