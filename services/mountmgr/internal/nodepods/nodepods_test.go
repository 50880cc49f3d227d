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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/types"
)

// answers is a source whose answer a test sets.
type answers struct {
	uids    []string
	err     error
	asked   int
	stopped int
}

func (a *answers) List(context.Context) (Pods, error) {
	a.asked++
	if a.err != nil {
		return nil, a.err
	}
	pods := make(Pods)
	for _, uid := range a.uids {
		pods[types.UID(uid)] = PodState{Name: uid}
	}
	return pods, nil
}

func (a *answers) Stop() { a.stopped++ }

// node is a Source with sources and a clock that a test moves.
type node struct {
	*Source
	t                 *testing.T
	kubelet, fallback *answers
	log               strings.Builder
	clock             time.Time
}

func newNode(t *testing.T, uids ...string) *node {
	t.Helper()
	n := &node{
		t: t, kubelet: &answers{uids: uids}, fallback: &answers{uids: uids}, clock: time.Unix(1e9, 0),
	}
	var err error
	n.Source, err = New(Options{
		Kubelet: n.kubelet, Fallback: n.fallback, KubeletDir: t.TempDir(), Interval: time.Second,
		Log: slog.New(slog.NewTextHandler(&n.log, nil)), Registry: prometheus.NewPedanticRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.now = func() time.Time { return n.clock }
	if err := os.Mkdir(n.podsDir, 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// after polls when this time has passed.
func (n *node) after(d time.Duration) {
	n.clock = n.clock.Add(d)
	n.poll(n.t.Context())
}

// settled has listed its pods for long enough.
func (n *node) settled() *node {
	n.after(0)
	n.after(goneAfter)
	return n
}

func (n *node) running(want ...string) {
	n.t.Helper()
	got, err := n.Running(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	if uids := slices.Sorted(maps.Keys(got)); !slices.Equal(uids, want) {
		n.t.Errorf("running %v, want %v", uids, want)
	}
}

func (n *node) unknown(want string) {
	n.t.Helper()
	got, err := n.Running(n.t.Context())
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), want) {
		n.t.Errorf("running %v, %v; want an unavailable that says %q", got, err, want)
	}
}

func (n *node) directory(uid string) string { return filepath.Join(n.podsDir, uid) }

func (n *node) keepsVolumes(uid string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Join(n.directory(uid), "volumes"), 0o700); err != nil {
		n.t.Fatal(err)
	}
}

func TestNothingIsSaidBeforeTwoPolls(t *testing.T) {
	n := newNode(t, "a")
	n.unknown("not known yet")
	n.after(0)
	n.unknown("listed once only")
	n.after(MinInterval)
	n.unknown("listed once only")
	n.after(MinInterval)
	n.running("a")
}

func TestAPodIsGoneWhenNothingSpeaksAgainstIt(t *testing.T) {
	n := newNode(t, "a", "b").settled()
	n.keepsVolumes("b")
	n.kubelet.uids = nil
	n.after(MinInterval)
	n.running("a", "b")
	n.after(MinInterval)
	n.running("a", "b")
	n.after(MinInterval)
	n.running("b") // Its volumes are there.
	if err := os.RemoveAll(filepath.Join(n.directory("b"), "volumes")); err != nil {
		t.Fatal(err)
	}
	n.running() // An empty directory is as good as none.
}

func TestAListThatIsIncompleteForAWhileTakesNothing(t *testing.T) {
	n := newNode(t, "a").settled()
	n.kubelet.uids = nil // Kubelet has restarted.
	n.after(MinInterval)
	n.kubelet.uids = []string{"a"}
	n.after(MinInterval)
	n.kubelet.uids = nil // And once more: it is counted from here.
	n.after(MinInterval)
	n.after(MinInterval)
	n.running("a")
	n.after(MinInterval)
	n.running()
}

func TestAPodThatWasNeverListedButHasVolumes(t *testing.T) {
	n := newNode(t).settled()
	n.keepsVolumes("x")
	if err := os.Mkdir(n.directory("empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.running("x")
}

func TestAnOldListSaysNothing(t *testing.T) {
	n := newNode(t, "a").settled()
	n.kubelet.err, n.fallback.err = errors.New("down"), errors.New("down too")
	for range staleAfter {
		n.after(MinInterval)
	}
	n.running("a")
	n.after(MinInterval)
	n.unknown("were last known at")
	if pods, fresh, err := n.Pods(t.Context()); err != nil || fresh || len(pods) != 1 {
		t.Errorf("pods %v, fresh %t, %v", pods, fresh, err)
	}
	n.kubelet.err, n.kubelet.uids = nil, nil // After a gap the first list is not believed.
	n.after(MinInterval)
	n.unknown("listed once only")
	n.after(MinInterval)
	n.after(MinInterval)
	n.running()
}

func TestFallback(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		polls int
		cause string
	}{
		"refused":          {fmt.Errorf("403: %w", errdefs.ErrPermissionDenied), 1, causeRefused},
		"timeout":          {fmt.Errorf("ask: %w", context.DeadlineExceeded), 1, causeTimeout},
		"an answer of 500": {errors.New("500"), toleratedErrors, causeOther},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "a")
			n.after(0)
			n.kubelet.err, n.fallback.uids = c.err, []string{"a", "b"}
			for range c.polls {
				if n.fallback.asked != 0 {
					t.Error("the API server was asked too soon")
				}
				n.after(MinInterval)
			}
			if pods, fresh, err := n.Pods(t.Context()); err != nil || !fresh || len(pods) != 2 {
				t.Errorf("pods %v, fresh %t, %v", pods, fresh, err)
			}
			n.asksAgainAndGoesBack(c.polls, c.cause)
		})
	}
}

// asksAgainAndGoesBack checks what follows a fallback after some polls of
// kubelet that failed.
func (n *node) asksAgainAndGoesBack(polls int, cause string) {
	n.t.Helper()
	asked := n.kubelet.asked
	n.after(retryKubelet - 1)
	if n.kubelet.asked != asked {
		n.t.Error("kubelet was asked again too soon")
	}
	n.after(1)
	if n.kubelet.asked != asked+1 || n.fallback.asked != 3 {
		n.t.Errorf("kubelet asked %d times, want %d; fallback %d times", n.kubelet.asked, asked+1, n.fallback.asked)
	}
	if got := strings.Count(n.log.String(), "API server is asked"); got != 1 {
		n.t.Errorf("told %d times:\n%s", got, n.log.String())
	}
	if got := testutil.ToFloat64(n.metrics.errors.WithLabelValues(cause)); got != float64(polls+1) {
		n.t.Errorf("%v errors of cause %s", got, cause)
	}
	n.kubelet.err = nil
	n.after(retryKubelet)
	n.after(MinInterval)
	if n.fallback.stopped != 1 || n.fallback.asked != 3 || testutil.ToFloat64(n.metrics.fromKubelet) != 1 {
		n.t.Errorf("fallback stopped %d times and asked %d times", n.fallback.stopped, n.fallback.asked)
	}
}

func TestWithoutKubelet(t *testing.T) {
	n := newNode(t, "a")
	n.options.Kubelet = nil
	n.settled().running("a")
}

func TestRunPollsAndEnds(t *testing.T) {
	n := newNode(t, "a")
	n.options.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	deadline := time.After(30 * time.Second)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		if _, fresh, _ := n.Pods(ctx); fresh {
			break
		}
		select {
		case <-deadline:
			t.Fatal("no list")
		case <-ticker.C:
		}
	}
	cancel()
	if err := <-done; err != nil || n.fallback.stopped != 1 {
		t.Errorf("%v, stopped %d times", err, n.fallback.stopped)
	}
}
