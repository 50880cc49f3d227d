package lifecycle

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestEveryStateReachesGone(t *testing.T) {
	for _, from := range States() {
		if !reaches(from, Gone, map[State]bool{}) {
			t.Errorf("%s never reaches %s", from, Gone)
		}
	}
}

func reaches(from, to State, seen map[State]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	for _, next := range transitions()[from] {
		if reaches(next, to, seen) {
			return true
		}
	}
	return false
}

func TestTableNamesOnlyDeclaredStates(t *testing.T) {
	known := map[State]bool{}
	for _, state := range States() {
		known[state] = true
	}
	for from, nexts := range transitions() {
		if !known[from] {
			t.Errorf("table has the unknown state %q", from)
		}
		for _, next := range nexts {
			if !known[next] {
				t.Errorf("%s leads to the unknown state %q", from, next)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		from, to State
		allowed  bool
	}{
		{Pending, Starting, true},
		{Starting, Serving, true},
		{Serving, HandingOver, true},
		{HandingOver, Recovering, true},
		{Lost, Remounting, true},
		{Remounting, Serving, true},
		{Remounting, Lost, true},
		{Remounting, Draining, false},
		{Lost, Serving, false},
		{Serving, Starting, false},
		{Gone, Pending, false},
		{Draining, Serving, false},
	} {
		err := Check(c.from, c.to)
		if c.allowed && err != nil {
			t.Errorf("Check(%s, %s) = %v", c.from, c.to, err)
		}
		if !c.allowed && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Check(%s, %s) = %v, want a failed precondition", c.from, c.to, err)
		}
	}
}

func TestAStateIsEitherShareableOrEnded(t *testing.T) {
	for _, state := range States() {
		if state.Shareable() == state.Ended() {
			t.Errorf("%s: shareable and ended are both %v", state, state.Ended())
		}
	}
}
