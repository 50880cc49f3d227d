package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/mountinfo"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// vaultTimeout bounds a question to the vault, which answers from memory.
const vaultTimeout = 2 * time.Second

// errConnectionEnded says that the kernel has ended the connection.
var errConnectionEnded = errors.New("the kernel has ended the connection")

// connectionEnded tells whether the kernel has ended the connection: somebody
// has aborted it, or unmounted all that showed it.
func (m *mount) connectionEnded(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	_, fuse, err := m.manager.Vault.Get(ctx, m.id)
	if err != nil {
		return false // Not known; whoever needs the descriptor finds out.
	}
	defer func() { _ = fuse.Close() }()
	return clientfd.Ended(fuse)
}

// ensureMounted puts the mount back at its own path when somebody has unmounted
// it there while a target still shows it.
func (m *mount) ensureMounted() error {
	record := m.snapshot()
	attached, err := kernelmount.Attached(record.MountPath, record.DeviceMinor)
	if err != nil || attached {
		return err
	}
	entries, err := mountinfo.ByDevice(0, record.DeviceMinor)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.FSType == kernelmount.FSType && entry.Root == "/" && (record.ReadOnly || !entry.ReadOnly()) {
			return kernelmount.Attach(entry.Path, record.DeviceMinor, record.MountPath, record.ReadOnly)
		}
	}
	return fmt.Errorf("somebody has unmounted %s: %w", record.MountPath, errdefs.ErrNotFound)
}

// lost ends a connection that nobody can serve any more, so that whoever waits
// for it gets an error instead of a hang, and begins another one for the
// targets that are left.
func (m *mount) lost(ctx context.Context) error {
	record := m.snapshot()
	m.closeSession()
	if m.isServedByOthers(ctx) {
		pause(ctx, longestPause)
		return ctx.Err() // Called again.
	}
	if err := kernelmount.Abort(record.MountPath, record.DeviceMinor); err != nil {
		return err
	}
	if len(record.References) == 0 {
		return m.transition(lifecycle.Draining, "Unused", "")
	}
	if wait := time.Until(record.StateSince.Add(backOff(m.remounts))); wait > 0 {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		select {
		case <-ctx.Done():
		case <-m.wake:
		}
		return nil // Called again: it may be unused by now.
	}
	if err := m.dropSuccessor(ctx); err != nil {
		return err
	}
	path := filepath.Join(filepath.Dir(record.MountPath), pathName(record.UniqueID)+"-"+randomSuffix())
	return m.transition(lifecycle.Remounting, record.Reason, record.Message, func(r *store.Record) { leaveConnection(r, path) })
}

// leaveConnection makes a record's connection a previous one. One that no
// target was ever shown is not there any more: see loseAgain.
func leaveConnection(r *store.Record, path string) {
	r.Reattaching = false
	if r.DeviceMinor == 0 {
		return
	}
	r.Previous = append(r.Previous, store.Connection{MountPath: r.MountPath, DeviceMinor: r.DeviceMinor})
	r.MountPath, r.DeviceMinor = path, 0
}

// remount makes a connection in place of the lost one, then has all that showed
// the lost one show it.
func (m *mount) remount(ctx context.Context) error {
	if !m.snapshot().Reattaching {
		if err := m.makeConnection(ctx); err != nil {
			return m.loseAgain(ctx, err)
		}
		if err := m.update(func(r *store.Record) error { r.Reattaching = true; return nil }); err != nil {
			return err
		}
	}
	if m.session == nil {
		if err := m.resumeRemounted(ctx); err != nil {
			return m.loseShown(ctx, err)
		}
	}
	left, err := m.reattach(ctx)
	if err != nil {
		return m.loseShown(ctx, err)
	}
	m.remounts = 0
	return m.transition(lifecycle.Serving, "Remounted", left, func(r *store.Record) { r.Reattaching = false })
}

// loseAgain takes away a connection that could not be made; nobody was shown
// it.
func (m *mount) loseAgain(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err() // The next mount manager begins anew.
	}
	if err := m.undoStart(ctx); err != nil {
		return errors.Join(cause, err)
	}
	m.remounts++
	m.log.WarnContext(ctx, "not remounted yet", logkeys.Error, cause)
	return m.transition(lifecycle.Lost, "RemountFailed", cause.Error())
}

// loseShown gives up a new connection that targets may show already.
func (m *mount) loseShown(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.remounts++
	m.log.WarnContext(ctx, "lost while targets were attached again", logkeys.Error, cause)
	return m.transition(lifecycle.Lost, "RemountFailed", cause.Error())
}

// resumeRemounted takes up the new client after a restart of the mount manager.
func (m *mount) resumeRemounted(ctx context.Context) error {
	session, err := m.reconnect(ctx, m.snapshot().Client)
	if err != nil {
		return err
	}
	m.setSession(session)
	if state := session.Status().GetState(); state != launchv1.Status_STATE_SERVING {
		return fmt.Errorf("juicefs mount does not serve (%s): %w", state, errdefs.ErrUnavailable)
	}
	if err := m.ensureMounted(); err != nil {
		return err
	}
	return m.ensureCustody(ctx)
}

// dropPrevious takes away the lost connections that no target shows any more.
func (m *mount) dropPrevious() error {
	var failed error
	gone := make([]store.Connection, 0)
	for _, lost := range m.snapshot().Previous {
		err := errors.Join(kernelmount.Abort(lost.MountPath, lost.DeviceMinor), kernelmount.Remove(lost.MountPath))
		if err == nil {
			gone = append(gone, lost)
		}
		failed = errors.Join(failed, err)
	}
	if len(gone) == 0 {
		return failed
	}
	err := m.update(func(r *store.Record) error {
		r.Previous = slices.DeleteFunc(r.Previous, func(each store.Connection) bool { return slices.Contains(gone, each) })
		return nil
	})
	return errors.Join(failed, err)
}

// describeLeft tells people what still shows a lost connection.
func describeLeft(paths []string) string {
	if len(paths) == 0 {
		return ""
	}
	slices.Sort(paths)
	return "these show errors until their pods are started again: " + strings.Join(slices.Compact(paths), "; ")
}
