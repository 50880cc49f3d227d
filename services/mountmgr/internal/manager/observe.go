package manager

import (
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Events tells people what happened to a mount. Its methods must not block:
// they run while the mount is locked.
type Events interface {
	// Replaced: another mount pod took over as planned, and nobody served for
	// pause; 0 when that is not known.
	Replaced(mount store.Record, pause time.Duration)
	// Recovered: a client that ended for cause was replaced after pause.
	Recovered(mount store.Record, cause string, pause time.Duration)
	// HandedOver: an upgraded client took over; pause is as for Replaced.
	HandedOver(mount store.Record, pause time.Duration)
	// Lost: nobody can serve the mount any more.
	Lost(mount store.Record)
	// Remounted: a lost mount serves again.
	Remounted(mount store.Record)
	// Failed: the first client could not start.
	Failed(mount store.Record)
	// RequestsRemoved: its mount pods request no resources from now on, for
	// cause.
	RequestsRemoved(mount store.Record, cause string)
}

// reasonRequestsRemoved is the reason that a mount gets without a change of its
// state.
const reasonRequestsRemoved = "RequestsRemoved"

// observed is what the earlier changes of a mount say about the next one.
type observed struct {
	// pod is the mount pod that served last.
	pod string
	// lost tells that the mount was lost and has not served since.
	lost bool
}

func observedOf(record store.Record) observed {
	return observed{pod: record.Client.PodName, lost: !neverLost(record.State)}
}

// neverLost is true in the states of a mount that has its first connection.
func neverLost(state lifecycle.State) bool {
	switch state {
	case lifecycle.Pending, lifecycle.Starting, lifecycle.Serving, lifecycle.HandingOver, lifecycle.Recovering:
		return true
	default:
		return false
	}
}

// observe counts a change of the record and tells of it. It runs under m.mu,
// and in run when the state has changed.
func (m *mount) observe(before, now store.Record) {
	committed := m.observeUpgrade(before.Upgrade, now.Upgrade)
	if before.State == now.State {
		if now.Reason == reasonRequestsRemoved && before.Reason != now.Reason {
			m.tell(func(events Events) { events.RequestsRemoved(now, now.Message) })
		}
		return
	}
	switch now.State {
	case lifecycle.Serving:
		m.observeServing(before, now, committed)
		m.seen = observedOf(now)
	case lifecycle.Lost:
		if m.seen.lost {
			return // It was not mounted again yet.
		}
		m.seen.lost = true
		m.manager.Metrics.LostMount()
		m.tell(func(events Events) { events.Lost(now) })
	case lifecycle.Failed:
		m.tell(func(events Events) { events.Failed(now) })
	case lifecycle.HandingOver:
		m.pause = 0
	default:
	}
}

func (m *mount) observeServing(before, now store.Record, committed bool) {
	switch {
	case m.seen.lost:
		m.manager.Metrics.Remounted()
		m.tell(func(events Events) { events.Remounted(now) })
	case before.State == lifecycle.Recovering:
		pause := now.StateSince.Sub(before.StateSince)
		cause := before.Message
		if before.Reason == "MountPodGone" {
			cause = "mount pod " + m.seen.pod + " ended without warning" // The message is about a socket.
		}
		m.tell(func(events Events) { events.Recovered(now, cause, pause) })
	case committed:
		m.tell(func(events Events) { events.HandedOver(now, m.pause) })
	case before.State == lifecycle.HandingOver && now.Client.PodName != m.seen.pod:
		m.tell(func(events Events) { events.Replaced(now, m.pause) })
	}
}

// observeUpgrade tells whether an upgrade was committed now.
func (m *mount) observeUpgrade(before, now *store.Upgrade) bool {
	if !before.Running() || now == nil || now.ID != before.ID || !now.Phase.Ended() {
		return false
	}
	committed := now.Phase == store.UpgradeCommitted
	m.manager.Metrics.Upgraded(committed)
	return committed
}

func (m *mount) tell(tell func(Events)) {
	if m.manager.Events != nil {
		tell(m.manager.Events)
	}
}
