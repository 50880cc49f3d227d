// Package nodepods knows which pods are on this node: from kubelet, or from the
// API server while kubelet does not answer. It says that a pod is gone only when
// nothing speaks against it.
package nodepods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// MinInterval is the shortest time between two polls.
	MinInterval = 5 * time.Second
	// goneAfter is how far apart two polls are that both miss a pod which is
	// gone: the list of a kubelet that has just started is not complete.
	goneAfter = 10 * time.Second
	// retryKubelet is how long the API server is asked before kubelet is again.
	retryKubelet = time.Minute
	// toleratedErrors are errors of kubelet in a row.
	toleratedErrors = 5
	// staleAfter is how many intervals a list counts.
	staleAfter = 3
)

// PodState is what is known of a pod of the node.
type PodState struct {
	Namespace, Name string
	Phase           corev1.PodPhase
	Deleting        bool
}

// Pods are the pods of a node.
type Pods = map[types.UID]PodState

// Lister asks one source for the pods of the node.
type Lister interface {
	// List blocks until the list is there or ctx ends.
	List(ctx context.Context) (Pods, error)
}

// Fallback is the source for the time in which kubelet does not answer.
type Fallback interface {
	Lister
	// Stop drops what was kept in memory for it; List begins anew.
	Stop()
}

// Options are what a Source works with.
type Options struct {
	// Kubelet may be nil: only Fallback is asked then.
	Kubelet  Lister
	Fallback Fallback
	// KubeletDir is kubelet's root directory.
	KubeletDir string
	// Interval is the time between two polls.
	Interval time.Duration
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// Source polls. It is safe for concurrent use.
type Source struct {
	options Options
	podsDir string
	now     func() time.Time
	metrics podMetrics

	// failures and retryAt belong to the polling goroutine: errors of kubelet
	// in a row, and when it is asked again; zero while it is the source.
	failures int
	retryAt  time.Time

	mu     sync.Mutex
	listed Pods
	// since is when the first poll succeeded, and last when the latest did.
	since, last time.Time
	err         error
	// missed are pods that were here, by the first poll without them.
	missed map[types.UID]time.Time
}

// New does not poll yet.
func New(options Options) (*Source, error) {
	options.Interval = max(options.Interval, MinInterval)
	metrics, err := newMetrics(options.Registry)
	if err != nil {
		return nil, err
	}
	return &Source{
		options: options, podsDir: filepath.Join(options.KubeletDir, "pods"), now: time.Now, metrics: metrics,
		err:    fmt.Errorf("pods of the node are not known yet: %w", errdefs.ErrUnavailable),
		missed: make(map[types.UID]time.Time),
	}, nil
}

// Run polls until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	defer s.options.Fallback.Stop()
	ticker := time.NewTicker(s.options.Interval)
	defer ticker.Stop()
	for {
		s.poll(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Pods returns the pods that the last successful poll has found, which nobody
// changes. fresh is false when later polls have failed since then for some
// time; an error when none has succeeded yet.
func (s *Source) Pods(context.Context) (pods Pods, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.IsZero() {
		return nil, false, s.err
	}
	return s.listed, s.isFresh(), nil
}

func (s *Source) isFresh() bool {
	return s.now().Sub(s.last) <= staleAfter*s.options.Interval
}

// Running returns the uids of all pods that the node has, also of terminated
// ones whose volumes are there. A pod leaves the result when two polls at least
// 10 s apart have missed it, and its directory on the node is gone or empty.
// errdefs.ErrUnavailable while that cannot be told.
func (s *Source) Running(context.Context) (map[string]bool, error) {
	present, err := s.notGone()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.podsDir)
	if err != nil {
		return nil, fmt.Errorf("read kubelet's directory of pods: %w: %w", err, errdefs.ErrUnavailable)
	}
	for _, entry := range entries {
		uid := entry.Name()
		if !present[uid] && hasEntries(filepath.Join(s.podsDir, uid)) {
			present[uid] = true
		}
	}
	return present, nil
}

// notGone are the pods that were listed or not missed for long enough.
func (s *Source) notGone() (map[string]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.last.IsZero():
		return nil, s.err
	case !s.isFresh():
		return nil, fmt.Errorf("pods of the node were last known at %s: %w: %w", s.last.UTC().Format(time.RFC3339), s.err, errdefs.ErrUnavailable)
	case s.last.Sub(s.since) < goneAfter:
		return nil, fmt.Errorf("pods of the node were listed once only: %w", errdefs.ErrUnavailable)
	}
	present := make(map[string]bool, len(s.listed)+len(s.missed))
	for uid := range s.listed {
		present[string(uid)] = true
	}
	for uid := range s.missed {
		present[string(uid)] = true
	}
	return present, nil
}

// hasEntries says whether kubelet still keeps something for the pod. A
// directory that cannot be read counts as kept.
func hasEntries(directory string) bool {
	handle, err := os.Open(directory)
	if err != nil {
		return !os.IsNotExist(err)
	}
	defer func() { _ = handle.Close() }()
	names, err := handle.Readdirnames(1)
	return len(names) > 0 || err != nil && !errors.Is(err, io.EOF)
}

// keep takes over the result of one poll.
func (s *Source) keep(pods Pods) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if !s.isFresh() {
		s.since = now // After a gap the count begins anew.
		for uid := range s.missed {
			s.missed[uid] = now
		}
	}
	for uid := range s.listed {
		if _, listed := pods[uid]; !listed {
			s.missed[uid] = now
		}
	}
	maps.DeleteFunc(s.missed, func(uid types.UID, first time.Time) bool {
		_, back := pods[uid]
		return back || now.Sub(first) >= goneAfter
	})
	s.listed, s.last, s.err = pods, now, nil
}

func (s *Source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = fmt.Errorf("list the pods of the node: %w: %w", err, errdefs.ErrUnavailable)
}
