package manager

import (
	"context"
	"slices"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// sharers returns the mounts that a target with this unique id may join.
func (m *Manager) sharers(uniqueID string) []*mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.index.sharers[uniqueID])
}

// mountsOf returns the mounts that targets of a volume show, and those of the
// volume that wait for a target.
func (m *Manager) mountsOf(volumeID string) []*mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := slices.Clone(m.index.sharers[volume.SafeID(volumeID)])
	for _, each := range m.index.volumes[volumeID] {
		if each.mount != nil && !slices.Contains(found, each.mount) {
			found = append(found, each.mount)
		}
	}
	return found
}

// announce lets others find a mount that is not on disk yet: its mutex is held.
// It reports whether the mounts beside it are still those that were tried.
func (m *Manager) announce(made *mount, tried []*mount) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.index.sharers[made.record.UniqueID], tried) {
		return false
	}
	m.mounts[made.id] = made
	m.index.addMount(made, made.record)
	return true
}

// retire forgets a mount; record is its last one.
func (m *Manager) retire(gone *mount, record store.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mounts, gone.id)
	m.index.removeMount(gone, record)
}

// assign notes which mount a claimed target has got.
func (m *Manager) assign(reference store.Reference, held *mount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index.add(reference, held)
}

// forget gives a target free that held has, or that was only claimed.
func (m *Manager) forget(target string, held *mount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index.remove(target, held)
}

// adopt takes a recorded mount in and runs it. It runs under m.mu.
func (m *Manager) adopt(made *mount, record store.Record) {
	m.mounts[made.id] = made
	m.index.addMount(made, record)
	m.start(m.lifetime, made, record)
}

// launchMount runs a mount that was announced.
func (m *Manager) launchMount(made *mount, record store.Record) {
	m.mu.Lock()
	lifetime := m.lifetime
	m.mu.Unlock()
	m.start(lifetime, made, record)
}

func (m *Manager) start(lifetime context.Context, made *mount, record store.Record) {
	m.watch.changed(record)
	ctx, cancel := context.WithCancel(lifetime)
	m.running.Go(func() {
		defer cancel()
		made.run(ctx)
		if record := made.snapshot(); record.State == lifecycle.Gone {
			m.retire(made, record)
			m.pokeCleanup()
		}
	})
	m.running.Go(func() { made.keepMirror(ctx) })
}
