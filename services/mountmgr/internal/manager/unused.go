package manager

import (
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// settleUnused moves a mount without references to Draining, at once or when
// its delay is over. It returns when that is: zero for a mount that is used.
func (m *mount) settleUnused() (drained bool, at time.Time, err error) {
	err = m.update(func(r *store.Record) error {
		if len(r.References) > 0 {
			return errUnchanged
		}
		now := time.Now().UTC()
		if at = m.deleteAt(r, now); now.Before(at) {
			if at.Equal(r.DeleteAt) {
				return errUnchanged
			}
			r.DeleteAt = at
			return nil
		}
		if err := lifecycle.Check(r.State, lifecycle.Draining); err != nil {
			return err
		}
		settle(r, lifecycle.Draining, "")
		r.State, r.StateSince, r.Reason, r.Message = lifecycle.Draining, now, "Unused", ""
		drained = true
		return nil
	})
	return drained, at, err
}

// deleteAt is when the mount of the record, which nobody uses, goes. It runs
// under m.mu.
func (m *mount) deleteAt(r *store.Record, now time.Time) time.Time {
	switch {
	case !m.keepsUnused(r):
		return now
	case !r.DeleteAt.IsZero():
		return r.DeleteAt
	default:
		// To the second, as its annotation tells it.
		return now.Add(m.deleteDelay()).Truncate(time.Second)
	}
}

// deleteDelay is how long the mount is kept when nobody uses it: what the mount
// pod's annotation says, which people may change, or else what the settings
// said. It runs under m.mu.
func (m *mount) deleteDelay() time.Duration {
	state := m.pods[m.record.Client.PodUID]
	text, told := state.annotations[mountpod.DelayAnnotation]
	if delay, err := time.ParseDuration(text); told && err == nil && delay >= 0 {
		return delay
	}
	if state.known && !told {
		return 0
	}
	return m.record.DeleteDelay
}

// keepsUnused tells whether an unused mount may wait for another use. Only one
// that serves undisturbed is worth it. It runs under m.mu.
func (m *mount) keepsUnused(r *store.Record) bool {
	state := m.pods[r.Client.PodUID]
	return r.State == lifecycle.Serving && !state.deleting && !state.gone && state.failure == nil
}
