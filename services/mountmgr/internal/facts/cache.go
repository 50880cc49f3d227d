package facts

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"
)

const (
	// freshFor is how long what was read counts for new mounts.
	freshFor = time.Minute
	// cacheLimit is how many volumes are remembered beyond that time.
	cacheLimit = 1024
)

// cache remembers the facts of volumes. Publishes of one volume at the same
// time read once.
type cache struct {
	now    func() time.Time
	flight *singleflight.Group

	mu      *sync.Mutex
	entries map[key]entry
}

// key separates what was read with the class from what was read without.
type key struct {
	volumeID string
	class    bool
}

type entry struct {
	volume Volume
	err    error
	at     time.Time
}

func newCache() cache {
	return cache{now: time.Now, flight: new(singleflight.Group), mu: new(sync.Mutex), entries: make(map[key]entry)}
}

func (c *cache) get(request Request, read func() (Volume, error)) (Volume, error) {
	id := key{volumeID: request.VolumeID, class: request.Class}
	if found, ok := c.find(id, request.Live); ok {
		return found.volume, found.err
	}
	flight := "volume " + id.volumeID
	if id.class {
		flight = "class of " + flight
	}
	result, err, _ := c.flight.Do(flight, func() (any, error) {
		found, err := read()
		c.keep(id, entry{volume: found, err: err, at: c.now()})
		return found, err
	})
	found, _ := result.(Volume)
	return found, err
}

func (c *cache) find(id key, live bool) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.entries[id]
	fresh := c.now().Sub(found.at) < freshFor
	return found, ok && (fresh || live && found.err == nil)
}

// keep remembers what was read, and that there is nothing to read, no right to,
// or too much; any other failure may be over at the next try.
func (c *cache) keep(id key, read entry) {
	lasting := errdefs.IsNotFound(read.err) || errdefs.IsPermissionDenied(read.err) || errdefs.IsResourceExhausted(read.err)
	if read.err != nil && (!lasting || errors.Is(read.err, context.DeadlineExceeded)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= cacheLimit {
		maps.DeleteFunc(c.entries, func(_ key, old entry) bool { return c.now().Sub(old.at) >= freshFor })
	}
	c.entries[id] = read
}
