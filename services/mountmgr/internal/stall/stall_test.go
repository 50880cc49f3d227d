package stall_test

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/stall"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// node has mounts that a test changes.
type node struct {
	mu      sync.Mutex
	mounts  []store.Record
	waiting map[uint32]uint64
	// answers is what a question gets; nil for no answer.
	answers func() error
	asked   int
}

func (n *node) set(change func(*node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *node) list() []store.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mounts
}

func (n *node) requests(minor uint32) (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[minor], nil
}

func (n *node) ask(ctx context.Context, _ store.Record) error {
	n.mu.Lock()
	n.asked++
	answers := n.answers
	n.mu.Unlock()
	if answers != nil {
		return answers()
	}
	<-ctx.Done()
	return ctx.Err()
}

// start samples n until the test ends, between two samples of each second.
func start(t *testing.T, n *node) *prometheus.Registry {
	t.Helper()
	sampler := stall.New(stall.Options{Mounts: n.list, Waiting: n.requests, Ask: n.ask, Log: slog.New(slog.DiscardHandler)})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(sampler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sampler.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	pass(500 * time.Millisecond)
	return registry
}

// pass lets time of the bubble go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// series are the values by metric and mount id.
func series(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]float64)
	for _, family := range families {
		name := family.GetName()[len("juicefs_csi_mountmgr_mount_"):]
		for _, metric := range family.GetMetric() {
			found[name+" "+metric.GetLabel()[0].GetValue()] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	return found
}

func mounts(states ...lifecycle.State) []store.Record {
	var records []store.Record
	for index, state := range states {
		id := strconv.Itoa(index)
		records = append(records, store.Record{ID: id, UniqueID: "pv-" + id, DeviceMinor: uint32(index + 1), State: state})
	}
	return records
}

func TestAClientThatDoesNotAnswerIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{mounts: mounts(lifecycle.Serving, lifecycle.Serving), waiting: map[uint32]uint64{1: 7}}
		registry := start(t, n)
		want := func(when string, requests, stalled float64) {
			t.Helper()
			got := series(t, registry)
			if got["waiting_requests 0"] != requests || got["stall_seconds_total 0"] != stalled || got["stall_seconds_total 1"] != 0 {
				t.Errorf("%s: %v, want %v requests and %v s", when, got, requests, stalled)
			}
		}
		pass(2 * time.Second)
		want("two samples with requests, the question was just put", 7, 0)
		pass(5 * time.Second)
		want("five seconds without an answer", 7, 5)
		n.set(func(n *node) { n.answers = func() error { return nil } })
		pass(time.Second)
		want("the last question was not answered, the next one is", 7, 6)
		pass(10 * time.Second)
		want("it answers and is busy", 7, 6)
		n.set(func(n *node) { n.waiting[1], n.answers = 0, nil })
		pass(10 * time.Second)
		want("nothing waits", 0, 6)
	})
}

func TestABusyClientThatAnswersIsRarelyAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{mounts: mounts(lifecycle.Serving), waiting: map[uint32]uint64{1: 1}, answers: func() error { return nil }}
		start(t, n)
		pass(100 * time.Second)
		n.set(func(n *node) {
			if n.asked < 10 || n.asked > 15 {
				t.Errorf("asked %d times in 100 s, want about every 9 s", n.asked)
			}
		})
	})
}

func TestAnErrorIsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{mounts: mounts(lifecycle.Serving), waiting: map[uint32]uint64{1: 1}, answers: func() error { return errdefs.ErrUnavailable }}
		registry := start(t, n)
		pass(10 * time.Second)
		if got := series(t, registry)["stall_seconds_total 0"]; got != 0 {
			t.Errorf("%v s", got)
		}
	})
}

func TestOnlyMountsInUseAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{mounts: mounts(lifecycle.States()...), waiting: map[uint32]uint64{}}
		for minor := range uint32(len(n.mounts)) {
			n.waiting[minor+1] = 1
		}
		registry := start(t, n)
		pass(3 * time.Second)
		if got := series(t, registry); len(got) != 2*3 {
			t.Errorf("%v, want Serving, HandingOver and Recovering", got)
		}
	})
}

// 1000 mounts come and go, some of them while their client is being asked.
func TestSeriesEndWithTheirMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{waiting: map[uint32]uint64{1: 1}}
		registry := start(t, n)
		for round := range 10 {
			var records []store.Record
			for index := range 100 {
				id := strconv.Itoa(round*100 + index)
				records = append(records, store.Record{ID: id, UniqueID: "pv-" + id, DeviceMinor: 1, State: lifecycle.Serving})
			}
			n.set(func(n *node) { n.mounts = records })
			pass(4 * time.Second)
			if got := series(t, registry); len(got) != 200 {
				t.Fatalf("round %d: %d series", round, len(got))
			}
		}
		n.set(func(n *node) { n.mounts = nil })
		pass(time.Second)
		if got := series(t, registry); len(got) != 0 {
			t.Errorf("%d series are left", len(got))
		}
	})
}
