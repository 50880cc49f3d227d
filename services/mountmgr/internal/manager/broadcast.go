package manager

import (
	"sync"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// watchBacklog is how many changes may wait for one watcher.
const watchBacklog = 256

// broadcaster tells every watcher of every change.
type broadcaster struct {
	mu       sync.Mutex
	watchers map[chan store.Record]bool
}

func newBroadcaster() *broadcaster {
	return &broadcaster{watchers: make(map[chan store.Record]bool)}
}

// Watch returns a channel of every change from now on. It is closed when its
// reader is too slow, or by the returned function, which must be called.
func (m *Manager) Watch() (<-chan store.Record, func()) {
	changes := make(chan store.Record, watchBacklog)
	b := m.watch
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[changes] = true
	return changes, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(changes)
	}
}

func (b *broadcaster) changed(record store.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
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
