package manager

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// teller is an Events that notes what it is told.
type teller struct{ told []string }

func (e *teller) Replaced(_ store.Record, pause time.Duration) {
	e.told = append(e.told, fmt.Sprint("replaced ", pause))
}

func (e *teller) Recovered(_ store.Record, cause string, pause time.Duration) {
	e.told = append(e.told, fmt.Sprint("recovered ", cause, " ", pause))
}

func (e *teller) HandedOver(_ store.Record, pause time.Duration) {
	e.told = append(e.told, fmt.Sprint("upgraded ", pause))
}
func (e *teller) Lost(store.Record)      { e.told = append(e.told, "lost") }
func (e *teller) Remounted(store.Record) { e.told = append(e.told, "remounted") }
func (e *teller) Failed(store.Record)    { e.told = append(e.told, "failed") }
func (e *teller) RequestsRemoved(_ store.Record, cause string) {
	e.told = append(e.told, "no requests "+cause)
}

// change is the next state of a mount, a second after the last one.
type change struct {
	state   lifecycle.State
	pod     string
	upgrade *store.Upgrade
	// pause is what the hand-over before this change took.
	pause time.Duration
}

func TestChangesAreTold(t *testing.T) {
	upgrade := func(phase store.UpgradePhase) *store.Upgrade { return &store.Upgrade{ID: "u", Phase: phase} }
	const serving, handing, recovering, lost = lifecycle.Serving, lifecycle.HandingOver, lifecycle.Recovering, lifecycle.Lost
	for name, c := range map[string]struct {
		changes []change
		want    []string
	}{
		"a first start":  {[]change{{state: lifecycle.Starting}, {state: serving, pod: "a"}}, nil},
		"a failed start": {[]change{{state: lifecycle.Starting}, {state: lifecycle.Failed}, {state: lifecycle.Gone}}, []string{"failed"}},
		"a deleted pod": {
			[]change{{state: serving, pod: "a"}, {state: handing, pod: "a"}, {serving, "b", nil, 20}}, []string{"replaced 20ns"},
		},
		"nothing replaced": {[]change{{state: serving, pod: "a"}, {state: handing, pod: "a"}, {state: serving, pod: "a"}}, nil},
		"an upgrade": {[]change{
			{state: serving, pod: "a", upgrade: upgrade(store.UpgradePlanned)},
			{state: handing, pod: "a", upgrade: upgrade(store.UpgradePlanned)},
			{state: handing, pod: "b", upgrade: upgrade(store.UpgradeAdopted)},
			{serving, "b", upgrade(store.UpgradeCommitted), 30},
		}, []string{"upgraded 30ns"}},
		"a rolled back upgrade": {[]change{
			{state: serving, pod: "a", upgrade: upgrade(store.UpgradePlanned)},
			{state: handing, pod: "a", upgrade: upgrade(store.UpgradePlanned)},
			{state: serving, pod: "a", upgrade: upgrade(store.UpgradeRolledBack)},
		}, nil},
		"a crash": {
			[]change{{state: serving, pod: "a"}, {state: recovering, pod: "a"}, {state: recovering, pod: "b"}, {state: serving, pod: "b"}},
			[]string{"recovered because of Recovering 2s"},
		},
		"a crash while handing over": {
			[]change{{state: serving, pod: "a"}, {state: handing, pod: "a"}, {state: recovering, pod: "a"}, {state: serving, pod: "b"}},
			[]string{"recovered because of Recovering 1s"},
		},
		"a loss": {[]change{{state: serving, pod: "a"}, {state: lost}, {state: lost}, {state: lifecycle.Draining}}, []string{"lost"}},
		"a second life": {
			[]change{
				{state: lost}, {state: lifecycle.Starting}, {state: lost}, {state: lifecycle.Starting},
				{state: serving, pod: "a"}, {state: lost},
			},
			[]string{"lost", "remounted", "lost"},
		},
	} {
		events := &teller{}
		m := newMount(New(Options{}, Parts{Events: events, Log: slog.New(slog.DiscardHandler)}), store.Record{State: lifecycle.Pending})
		for second, next := range c.changes {
			record := store.Record{
				State: next.state, Message: "because of " + string(next.state), Upgrade: next.upgrade, Client: store.Client{PodName: next.pod},
			}
			record.StateSince = time.Unix(int64(second), 0)
			if m.record.State == next.state {
				record.StateSince = m.record.StateSince
			}
			if next.pause != 0 {
				m.pause = next.pause
			}
			m.observe(m.record, record)
			m.record = record
		}
		if !slices.Equal(events.told, c.want) {
			t.Errorf("%s: told %q, want %q", name, events.told, c.want)
		}
	}
}

func TestARequestThatIsRemovedIsToldOnce(t *testing.T) {
	events := &teller{}
	m := newMount(New(Options{}, Parts{Events: events, Log: slog.New(slog.DiscardHandler)}), store.Record{State: lifecycle.Starting})
	removed := store.Record{State: lifecycle.Starting, Reason: "RequestsRemoved", Message: "no room"}
	m.observe(m.record, removed)
	m.observe(removed, removed)
	served := removed
	served.State = lifecycle.Serving
	m.observe(removed, served)
	if want := []string{"no requests no room"}; !slices.Equal(events.told, want) {
		t.Errorf("told %q, want %q", events.told, want)
	}
}

func TestNobodyNeedsToListen(t *testing.T) {
	m := newMount(New(Options{}, Parts{Log: slog.New(slog.DiscardHandler)}), store.Record{State: lifecycle.Recovering})
	m.observe(m.record, store.Record{State: lifecycle.Lost})
	m.observe(store.Record{State: lifecycle.Lost}, store.Record{State: lifecycle.Serving})
	if m.seen.lost {
		t.Error("a mount that serves counts as lost")
	}
}
