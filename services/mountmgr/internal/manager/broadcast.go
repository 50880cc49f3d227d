package manager

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// watchBacklog is how many changes may wait for one watcher.
const watchBacklog = 256

// broadcaster tells every watcher of every change. It knows the last record of
// each mount, so that a watcher gets what is there and all that follows in one
// step.
type broadcaster struct {
	mu       sync.Mutex
	present  map[string]store.Record
	watchers map[chan store.Record]bool
}

func newBroadcaster() *broadcaster {
	return &broadcaster{present: make(map[string]store.Record), watchers: make(map[chan store.Record]bool)}
}

// Watch returns the present mounts in the order of their ids, and a channel of
// every change after that: none is missed and none is told twice. The channel
// is closed when its reader is too slow, or by the returned function, which
// must be called. Records must not be changed.
func (m *Manager) Watch() (present []store.Record, changes <-chan store.Record, stop func()) {
	watcher := make(chan store.Record, watchBacklog)
	b := m.watch
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[watcher] = true
	present = slices.SortedFunc(maps.Values(b.present), func(x, y store.Record) int { return cmp.Compare(x.ID, y.ID) })
	return present, watcher, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(watcher)
	}
}

func (b *broadcaster) changed(record store.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if record.State == lifecycle.Gone {
		delete(b.present, record.ID)
	} else {
		b.present[record.ID] = record
	}
	for watcher := range b.watchers {
		select {
		case watcher <- record:
		default:
			b.drop(watcher)
		}
	}
}

// drop runs under b.mu.
func (b *broadcaster) drop(watcher chan store.Record) {
	if b.watchers[watcher] {
		delete(b.watchers, watcher)
		close(watcher)
	}
}
