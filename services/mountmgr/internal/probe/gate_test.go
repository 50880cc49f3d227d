package probe_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
)

// results notes how questions ended.
type results struct {
	mu  sync.Mutex
	all []probe.Result
}

func (r *results) add(result probe.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, result)
}

func (r *results) get() []probe.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

func TestAMountHasOneProcess(t *testing.T) {
	const callers = 100
	var seen results
	prober, path := newProber(), t.TempDir()
	prober.Observe = seen.add
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, callers)
	for range callers {
		go func() {
			_, err := prober.Usage(ctx, "one", neverAnswers)
			ended <- err
		}()
	}
	eventually(t, "all wait", func() bool { return prober.Waiting("one") == callers })
	if found := children(t); found != 1 {
		t.Errorf("%d processes for %d callers", found, callers)
	}
	if _, err := prober.Usage(t.Context(), "two", path); err != nil {
		t.Errorf("another mount: %v", err)
	}
	other := make(chan error, 1)
	go func() {
		_, err := prober.Usage(t.Context(), "one", path)
		other <- err
	}()
	cancel()
	for range callers {
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("usage = %v, want deadline exceeded", err)
		}
	}
	if err := <-other; err != nil {
		t.Errorf("another path after the first has ended: %v", err)
	}
	eventually(t, "nothing is left", func() bool { return children(t) == 0 && prober.Waiting("one") == 0 })
	got := seen.get()
	slices.Sort(got)
	if want := []probe.Result{probe.Answered, probe.Answered, probe.TimedOut}; !slices.Equal(got, want) {
		t.Errorf("results %v, want one for each process: %v", got, want)
	}
}

func TestACallerThatGivesUpDoesNotEndTheProbeOfOthers(t *testing.T) {
	prober := newProber()
	patient, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	impatient, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	ask := func(ctx context.Context) {
		_, err := prober.Usage(ctx, "one", neverAnswers)
		ended <- err
	}
	go ask(impatient)
	eventually(t, "the first waits", func() bool { return prober.Waiting("one") == 1 })
	go ask(patient)
	eventually(t, "both wait", func() bool { return prober.Waiting("one") == 2 })
	cancel()
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if children(t) != 1 || prober.Waiting("one") != 1 {
		t.Errorf("%d processes, %d callers", children(t), prober.Waiting("one"))
	}
	giveUp()
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	eventually(t, "nothing is left", func() bool { return children(t) == 0 })
}
