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
	// freeHandOvers and freeRecoveries are how many of a series come at once:
	// before a hand-over the old client serves on, so that nobody waits, and
	// applications wait for a recovery.
	freeHandOvers  = 1
	freeRecoveries = 5
)

// pace delays replacements that follow each other quickly: whoever ends mount
// pods again and again, such as a node that shuts down, is not fought.
type pace struct {
	// handOvers and recoveries are those of the present series. They count apart:
	// many planned hand-overs must not delay the repair after a crash.
	handOvers, recoveries int
	serving               time.Time
}

// serves notes that a client serves.
func (p *pace) serves(now time.Time) {
	if p.serving.IsZero() {
		p.serving = now
	}
}

// handOver counts a hand-over and returns how long it has to wait.
func (p *pace) handOver(now time.Time) time.Duration {
	p.settle(now)
	p.handOvers++
	return backOff(p.handOvers - freeHandOvers)
}

// recovery is handOver for a recovery, of which the first ones, as many as free,
// do not wait.
func (p *pace) recovery(now time.Time, free int) time.Duration {
	p.settle(now)
	p.recoveries++
	return backOff(p.recoveries - free)
}

// settle ends a series when its last client has served for long enough.
func (p *pace) settle(now time.Time) {
	if !p.serving.IsZero() && now.Sub(p.serving) >= steadyTime {
		p.handOvers, p.recoveries = 0, 0
	}
	p.serving = time.Time{}
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
	wait := m.pace.handOver(time.Now())
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
	free := freeRecoveries
	if state, _ := m.pod(m.snapshot().Client.PodUID); state.imposed {
		free = freeHandOvers
	}
	return m.pace.recovery(time.Now(), free)
}
