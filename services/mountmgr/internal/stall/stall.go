// Package stall watches whether the clients of the node's mounts answer, and
// counts the seconds in which they do not.
package stall

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// interval is the time between two samples, and so the unit of a stall.
	interval = time.Second
	// probeTimeout bounds one question to a client. It is a bit shorter than
	// interval, so that the next sample finds the result.
	probeTimeout = 900 * time.Millisecond
	// busySamples is how many samples in a row must find requests before the
	// client is asked.
	busySamples = 2
	// longestRest bounds how many samples a busy client that answers is left
	// in peace: each question starts a process.
	longestRest = 8
)

// Options are what a Sampler looks at. The functions must be safe for
// concurrent use.
type Options struct {
	// Mounts returns the mounts of the node.
	Mounts func() []store.Record
	// Waiting returns how many requests the kernel has for the client of the
	// connection with this minor device number.
	Waiting func(minor uint32) (uint64, error)
	// Ask asks the client for something that it can answer at once;
	// context.DeadlineExceeded when it does not.
	Ask func(ctx context.Context, mount store.Record) error
	Log *slog.Logger
}

// Sampler is a prometheus.Collector of the waiting requests of each mount and
// of the seconds in which its client did not answer. A mount that is gone has
// no series.
type Sampler struct {
	options Options

	waiting, seconds *prometheus.Desc

	mu      sync.Mutex
	watched map[string]*watched
	asking  sync.WaitGroup
}

// watched is one mount, under the lock of the sampler.
type watched struct {
	id, uniqueID string
	requests     uint64
	// busy is how many samples in a row have found requests.
	busy int
	// rest is how many samples go by before the next question, and length how
	// many after the next answer.
	rest, length int
	// asked tells that a question waits for its answer; silent that the last
	// one was not answered.
	asked, silent bool
	stalled       float64
}

// New returns a sampler that has seen nothing.
func New(options Options) *Sampler {
	labels := []string{"mount_id", "unique_id"}
	return &Sampler{
		options: options,
		waiting: prometheus.NewDesc("juicefs_csi_mountmgr_mount_waiting_requests",
			"Requests of applications that the kernel holds for the client of a mount, a second old at most.", labels, nil),
		seconds: prometheus.NewDesc("juicefs_csi_mountmgr_mount_stall_seconds_total",
			"Seconds in which requests waited and the client of a mount answered nothing.", labels, nil),
		watched: make(map[string]*watched),
	}
}

// Run takes a sample each second until ctx ends.
func (s *Sampler) Run(ctx context.Context) error {
	defer s.asking.Wait()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.sample(ctx)
		}
	}
}

// sample looks at every mount once.
func (s *Sampler) sample(ctx context.Context) {
	present := make(map[string]bool)
	for _, mount := range s.options.Mounts() {
		if !inUse(mount.State) {
			continue
		}
		requests, err := s.options.Waiting(mount.DeviceMinor)
		if err != nil {
			s.options.Log.WarnContext(ctx, "waiting requests not read", logkeys.MountID, mount.ID, logkeys.Error, err)
			continue
		}
		present[mount.ID] = true
		if s.note(mount, requests) {
			s.asking.Go(func() { s.ask(ctx, mount) })
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.watched {
		if !present[id] {
			delete(s.watched, id)
		}
	}
}

// inUse is true in the states in which applications see the mount, and its
// device number is surely its own.
func inUse(state lifecycle.State) bool {
	return state == lifecycle.Serving || state == lifecycle.HandingOver || state == lifecycle.Recovering
}

// note records a sample and tells whether the client is to be asked now.
func (s *Sampler) note(mount store.Record, requests uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[mount.ID]
	if w == nil {
		w = &watched{id: mount.ID, uniqueID: mount.UniqueID}
		s.watched[mount.ID] = w
	}
	return w.note(requests)
}

func (w *watched) note(requests uint64) (ask bool) {
	w.requests = requests
	if requests == 0 {
		w.busy, w.rest, w.length, w.silent = 0, 0, 0, false
		return false
	}
	w.busy++
	if w.busy >= busySamples && (w.silent || w.asked) {
		w.stalled += interval.Seconds()
	}
	switch {
	case w.busy < busySamples || w.asked:
		return false
	case w.rest > 0:
		w.rest--
		return false
	}
	w.asked = true
	return true
}

func (s *Sampler) ask(ctx context.Context, mount store.Record) {
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := s.options.Ask(limited, mount)
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[mount.ID]
	if w == nil || ctx.Err() != nil {
		return
	}
	w.asked = false
	// An error in time is an answer: of the client, or that it is gone.
	w.silent = errors.Is(err, context.DeadlineExceeded)
	if w.silent {
		w.rest, w.length = 0, 0
		return
	}
	w.length = min(max(2*w.length, 1), longestRest)
	w.rest = w.length
}

// Describe implements prometheus.Collector.
func (s *Sampler) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- s.waiting
	descriptions <- s.seconds
}

// Collect implements prometheus.Collector. It tells the last sample.
func (s *Sampler) Collect(found chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watched {
		found <- prometheus.MustNewConstMetric(s.waiting, prometheus.GaugeValue, float64(w.requests), w.id, w.uniqueID)
		found <- prometheus.MustNewConstMetric(s.seconds, prometheus.CounterValue, w.stalled, w.id, w.uniqueID)
	}
}
