// Package vault is fdvault: a small process that holds a second copy of every
// mount's /dev/fuse descriptor, so that a mount outlives its client, its mount
// pod and the mount manager. It answers from memory, does no I/O while it
// holds its lock, sees no mount path, and never hands out its only copy.
//
// The protocol is juicefs.csi.vault.v1 over a SOCK_SEQPACKET socket.
package vault

import (
	"fmt"
	"os"
	"sort"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
)

// Vault is the set of held descriptors. It is safe for concurrent use.
type Vault struct {
	mu      sync.Mutex
	entries map[string]*entry
}

type entry struct {
	file     *os.File
	settings []byte
	minor    uint32
}

// New returns an empty vault.
func New() *Vault {
	return &Vault{entries: make(map[string]*entry)}
}

// Put stores the descriptor of a mount and takes ownership of file, which may
// be nil to replace only the settings of an entry. An older descriptor is
// closed after the new one is stored.
func (v *Vault) Put(put *vaultv1.Put, file *os.File) error {
	if put.GetMountId() == "" {
		return closing(file, fmt.Errorf("mount_id is empty: %w", errdefs.ErrInvalidArgument))
	}
	older, err := v.replace(put, file)
	if err != nil {
		return closing(file, err)
	}
	if older != nil {
		return older.Close()
	}
	return nil
}

func (v *Vault) replace(put *vaultv1.Put, file *os.File) (*os.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := v.entries[put.GetMountId()]
	if file == nil {
		if held == nil {
			return nil, fmt.Errorf("mount %s: no descriptor is held or given: %w", put.GetMountId(), errdefs.ErrNotFound)
		}
		held.settings = put.GetSettings()
		return nil, nil
	}
	v.entries[put.GetMountId()] = &entry{file: file, settings: put.GetSettings(), minor: put.GetDeviceMinor()}
	if held == nil {
		return nil, nil
	}
	return held.file, nil
}

func closing(file *os.File, err error) error {
	if file != nil {
		_ = file.Close() // The caller's error matters more.
	}
	return err
}

// Get returns the entry of a mount and a duplicate of its descriptor, which
// the caller owns.
func (v *Vault) Get(mountID string) (*vaultv1.Entry, *os.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := v.entries[mountID]
	if held == nil {
		return nil, nil, fmt.Errorf("mount %s: %w", mountID, errdefs.ErrNotFound)
	}
	duplicate, err := unix.FcntlInt(held.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("duplicate descriptor of mount %s: %w", mountID, err)
	}
	return held.describe(mountID), os.NewFile(uintptr(duplicate), "fuse"), nil
}

// List returns all entries in the order of their ids.
func (v *Vault) List() []*vaultv1.Entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	entries := make([]*vaultv1.Entry, 0, len(v.entries))
	for id, held := range v.entries {
		entries = append(entries, held.describe(id))
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].GetMountId() < entries[j].GetMountId() })
	return entries
}

// Remove closes the descriptor of a mount. An unknown mount is no error.
func (v *Vault) Remove(mountID string) error {
	v.mu.Lock()
	held := v.entries[mountID]
	delete(v.entries, mountID)
	v.mu.Unlock()
	if held == nil {
		return nil
	}
	return held.file.Close()
}

func (e *entry) describe(id string) *vaultv1.Entry {
	return &vaultv1.Entry{MountId: id, Settings: e.settings, DeviceMinor: e.minor}
}
