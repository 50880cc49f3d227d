// Package lifecycle declares the life of a mount as one table of states and
// the transitions between them. It does no I/O; docs/mount-states.md draws it.
package lifecycle

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// State is where a mount is in its life. The strings are stored on disk.
type State string

// The states.
const (
	// Pending is recorded and nothing else.
	Pending State = "Pending"
	// Starting makes the kernel mount and its first client. Nobody uses the
	// mount yet, so a restart of the mount manager begins it anew.
	Starting State = "Starting"
	// Serving has a client that answers.
	Serving State = "Serving"
	// HandingOver has a planned successor that takes the connection over.
	HandingOver State = "HandingOver"
	// Recovering has lost its client without warning and starts another.
	Recovering State = "Recovering"
	// Draining has no reference left and is being taken away.
	Draining State = "Draining"
	// Lost has a connection that nobody holds any more, or that has ended.
	Lost State = "Lost"
	// Remounting makes a connection in place of a lost one, and then has every
	// target show it.
	Remounting State = "Remounting"
	// Failed could not start its first client.
	Failed State = "Failed"
	// Gone is taken away; its record is removed.
	Gone State = "Gone"
)

// transitions is the table: from a state to all that may follow it.
func transitions() map[State][]State {
	return map[State][]State{
		Pending:     {Starting, Failed, Gone},
		Starting:    {Serving, Failed},
		Serving:     {HandingOver, Recovering, Draining, Lost},
		HandingOver: {Serving, Recovering, Draining, Lost},
		Recovering:  {Serving, Draining, Lost},
		Draining:    {Gone},
		Lost:        {Remounting, Draining},
		Remounting:  {Serving, Lost},
		Failed:      {Gone},
		Gone:        nil,
	}
}

// States lists every state.
func States() []State {
	return []State{Pending, Starting, Serving, HandingOver, Recovering, Draining, Lost, Remounting, Failed, Gone}
}

// Check fails with errdefs.ErrFailedPrecondition unless to may follow from.
func Check(from, to State) error {
	if slices.Contains(transitions()[from], to) {
		return nil
	}
	return fmt.Errorf("mount state %s cannot become %s: %w", from, to, errdefs.ErrFailedPrecondition)
}

// Shareable is true in the states in which a further target may join.
func (s State) Shareable() bool {
	switch s {
	case Pending, Starting, Serving, HandingOver, Recovering, Lost, Remounting:
		return true
	case Draining, Failed, Gone:
		return false
	default:
		return false
	}
}

// Ended is true in the states that no client will ever serve again.
func (s State) Ended() bool {
	return s == Draining || s == Failed || s == Gone
}
