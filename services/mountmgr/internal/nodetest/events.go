package nodetest

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Events keeps what the mount managers of a node have told. It is safe for
// concurrent use.
type Events struct {
	mu   sync.Mutex
	told []Event
}

// Event is one call of a mount manager.
type Event struct {
	// Kind is the name of the method.
	Kind  string
	Mount store.Record
	Cause string
	Pause time.Duration
}

func (e *Events) add(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	event.Mount = event.Mount.Clone()
	e.told = append(e.told, event)
}

// Told returns the events in their order, and Kinds their names.
func (e *Events) Told() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.told)
}

// Kinds returns the names of the events, separated by spaces.
func (e *Events) Kinds() string {
	var kinds []string
	for _, event := range e.Told() {
		kinds = append(kinds, event.Kind)
	}
	return strings.Join(kinds, " ")
}

// Replaced implements manager.Events, as do all that follow.
func (e *Events) Replaced(mount store.Record, pause time.Duration) {
	e.add(Event{Kind: "Replaced", Mount: mount, Pause: pause})
}

// Recovered keeps an event.
func (e *Events) Recovered(mount store.Record, cause string, pause time.Duration) {
	e.add(Event{Kind: "Recovered", Mount: mount, Cause: cause, Pause: pause})
}

// HandedOver keeps an event.
func (e *Events) HandedOver(mount store.Record, pause time.Duration) {
	e.add(Event{Kind: "HandedOver", Mount: mount, Pause: pause})
}

// Lost keeps an event.
func (e *Events) Lost(mount store.Record) { e.add(Event{Kind: "Lost", Mount: mount}) }

// Remounted keeps an event.
func (e *Events) Remounted(mount store.Record) { e.add(Event{Kind: "Remounted", Mount: mount}) }

// Failed keeps an event.
func (e *Events) Failed(mount store.Record) { e.add(Event{Kind: "Failed", Mount: mount}) }

// RequestsRemoved keeps an event.
func (e *Events) RequestsRemoved(mount store.Record, cause string) {
	e.add(Event{Kind: "RequestsRemoved", Mount: mount, Cause: cause})
}
