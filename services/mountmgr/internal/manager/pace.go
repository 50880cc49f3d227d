package manager

import (
	"context"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
)

const (
	// steadyTime is how long a client must serve for the next replacement not
	// to count as one of a series.
	steadyTime = time.Minute
	// firstPause is before the first replacement or remount that is delayed; it
	// doubles with each further one up to longestPause.
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// planned and unplanned are how many replacements of a series come at once:
	// before a planned one the old client serves on, so that nobody waits, and
	// applications wait for an unplanned one.
	planned   = 1
	unplanned = 5
)

// pace delays replacements that follow each other quickly: whoever ends mount
// pods again and again, such as a node that shuts down, is not fought.
type pace struct {
	streak  int
	serving time.Time
}

// serves notes that a client serves.
func (p *pace) serves(now time.Time) {
	if p.serving.IsZero() {
		p.serving = now
	}
}

// next counts a replacement and returns how long it has to wait; the first ones
// of a series, as many as free, do not.
func (p *pace) next(now time.Time, free int) time.Duration {
	if !p.serving.IsZero() && now.Sub(p.serving) >= steadyTime {
		p.streak = 0
	}
	p.serving = time.Time{}
	p.streak++
	return backOff(p.streak - free)
}

// backOff is the pause before the n-th attempt that has to wait; none for n < 1.
func backOff(n int) time.Duration {
	if n < 1 {
		return 0
	}
	return min(firstPause<<min(n-1, 5), longestPause)
}

// awaitTurn delays a hand-over of a series while the old client serves. It
// reports false when the mount has moved on instead, or shall be looked at anew.
func (m *mount) awaitTurn(ctx context.Context) (bool, error) {
	if m.snapshot().Upgrade.Running() {
		return true, nil // Somebody wants it now.
	}
	wait := m.pace.next(time.Now(), planned)
	if wait == 0 {
		return true, nil
	}
	turn := time.NewTimer(wait)
	defer turn.Stop()
	for {
		if drained, _, err := m.settleUnused(); drained || err != nil {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-turn.C:
			return true, nil
		case <-m.wake:
		case event, open := <-m.session.Events():
			if !open {
				m.closeSession()
				return false, nil
			}
			if event.GetClientEnded() != nil {
				return false, m.transition(lifecycle.Recovering, "ClientEnded",
					"juicefs mount ended: "+describe(event.GetClientEnded().GetExit()))
			}
		}
	}
}

// recoveryPause is how long a recovery has to wait before it begins.
func (m *mount) recoveryPause() time.Duration {
	free := unplanned
	if state, _ := m.pod(m.snapshot().Client.PodUID); state.imposed {
		free = planned
	}
	return m.pace.next(time.Now(), free)
}
