package manager

import (
	"context"
	"errors"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// cleanupTimeout bounds one attempt to clean the caches of one mount; the
	// next one goes on where it was stopped.
	cleanupTimeout = 10 * time.Minute
	// cleanupInterval is until the next attempt.
	cleanupInterval = time.Minute
)

// planCleanup records that the cached blocks of a mount that goes are due, if
// its settings want that. They are removed when no mount of the volume is left.
func (m *mount) planCleanup(record store.Record) error {
	if !record.CleanCache || record.FileSystemUUID == "" {
		return nil
	}
	settings, err := m.settings()
	if err != nil {
		m.log.Warn("cache is not cleaned", logkeys.Error, err) // Nothing to wait for.
		return nil
	}
	err = m.manager.Store.PutCleanup(store.Cleanup{
		ID: m.id, UniqueID: record.UniqueID, FileSystemUUID: record.FileSystemUUID,
		Directories: settings.Pod.CacheDirs, Since: time.Now().UTC(),
	})
	if err == nil {
		m.manager.pokeCleanup()
	}
	return err
}

func (m *Manager) pokeCleanup() {
	select {
	case m.cleanups <- struct{}{}:
	default:
	}
}

// cleanCaches removes what is due, also from before this mount manager, until
// ctx ends.
func (m *Manager) cleanCaches(ctx context.Context) {
	for ctx.Err() == nil {
		next := time.NewTimer(cleanupInterval)
		left, err := m.cleanAll(ctx)
		if err != nil && ctx.Err() == nil {
			m.Log.WarnContext(ctx, "clean cache", logkeys.Error, err)
		}
		if !left {
			next.Stop()
		}
		select {
		case <-ctx.Done():
		case <-m.cleanups:
		case <-next.C:
		}
		next.Stop()
	}
}

// cleanAll reports whether something is left to do.
func (m *Manager) cleanAll(ctx context.Context) (bool, error) {
	due, err := m.Store.Cleanups()
	if err != nil {
		return true, err
	}
	left := false
	var failed error
	for _, cleanup := range due {
		done, err := m.clean(ctx, cleanup)
		left, failed = left || !done, errors.Join(failed, err)
	}
	return left, failed
}

// clean removes the blocks of one mount, unless the volume is in use again: then
// its next last mount decides.
func (m *Manager) clean(ctx context.Context, cleanup store.Cleanup) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	for _, directory := range cleanup.Directories {
		used, ending := m.uses(cleanup)
		if used {
			break
		}
		if ending {
			return false, nil // Told again by its end.
		}
		if err := m.options.CacheRoots.RemoveChunks(ctx, directory, cleanup.FileSystemUUID); err != nil {
			return false, err
		}
		m.Log.InfoContext(ctx, "cache is clean", logkeys.MountID, cleanup.ID, logkeys.UniqueID, cleanup.UniqueID, logkeys.Path, directory)
	}
	return true, m.Store.DeleteCleanup(cleanup.ID)
}

// uses tells whether there is a mount with the cache of the clean-up, or one
// that is just going.
func (m *Manager) uses(cleanup store.Cleanup) (used, ending bool) {
	for _, each := range m.sharers(cleanup.UniqueID) {
		record := each.snapshot()
		// A mount that has just begun does not know its file system's uuid yet.
		if record.FileSystemUUID != "" && record.FileSystemUUID != cleanup.FileSystemUUID {
			continue
		}
		used = used || !record.State.Ended()
		ending = ending || record.State.Ended()
	}
	return used, ending
}
