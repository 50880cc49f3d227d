// Package spare keeps mount pods ready that have no client yet, so that a mount
// need not wait for the start of a pod. There are some of each shape that the
// mounts of the node have; a mount takes one, and another is made.
package spare

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Pods is where spares run.
type Pods interface {
	// CreateSpare starts a jfs-launch in a pod of the shape key and returns the
	// uid of the pod; it does not wait for it.
	CreateSpare(ctx context.Context, spec mountpod.Spec, key string) (uid string, err error)
	// Connect waits until the jfs-launch greets, or ctx ends.
	Connect(ctx context.Context, client store.Client) (*launcher.Session, error)
	// Reconnect is Connect for a jfs-launch that must be listening already.
	Reconnect(ctx context.Context, client store.Client) (*launcher.Session, error)
	// Delete ends the pod; one that is gone is no error.
	Delete(ctx context.Context, client store.Client, grace time.Duration) error
	// Label gives a pod that was a spare the labels and annotations of a mount.
	Label(ctx context.Context, client store.Client, spec mountpod.Spec) error
	// Resize gives it the resources of the mount. errdefs.ErrUnavailable may
	// pass; after any other error the pod keeps what it has.
	Resize(ctx context.Context, client store.Client, spec mountpod.Spec) error
}

var _ Pods = (*mountpod.Pods)(nil)

// DefaultRetention is how long spares of a shape outlive its last mount.
const DefaultRetention = 10 * time.Minute

// Options are the settings of a pool.
type Options struct {
	Node string
	// LauncherDir is the host directory that holds jfs-launch.
	LauncherDir string
	// Count is how many spares of each shape there are; 0 for none.
	Count int
	// Retention is how long spares of a shape outlive its last mount; 0 for
	// DefaultRetention.
	Retention time.Duration
	// Failed is told of each spare that could not be made or did not stay, and
	// whether the one before it did neither. It must not block; nil for nobody.
	Failed func(image string, cause error, again bool)
}

// Pool is the spares of one node. It is safe for concurrent use.
type Pool struct {
	// Pods is where the spares run.
	Pods
	options Options
	store   *store.Store
	log     *slog.Logger
	// wake tells Run that something has changed.
	wake    chan struct{}
	running sync.WaitGroup

	mu sync.Mutex
	// count is how many spares of each shape there are to be.
	count  int
	shapes map[string]*shape
	// spares are all that are recorded, by the name of their pods.
	spares map[string]*spare
}

// shape is a kind of spare.
type shape struct {
	store.Shape
	pace pace
}

// spare is one pod.
type spare struct {
	store.Spare
	// session is nil until jfs-launch was met.
	session *launcher.Session
	// since is when it was met.
	since time.Time
	// making is true until it is ready or has ended: its record is being written.
	making bool
	// taken is true from Take to Leave.
	taken bool
	// ended is why nobody may take it any more, and why its pod is deleted.
	ended error
	// removing is true while its pod is being deleted; retry is when that is
	// tried again after a failure.
	removing bool
	retry    pace
	// stop is closed when it ends or leaves the pool.
	stop chan struct{}
}

// New returns a pool that does nothing before Resume and Run.
func New(options Options, records *store.Store, pods Pods, log *slog.Logger) *Pool {
	if options.Retention == 0 {
		options.Retention = DefaultRetention
	}
	if options.Failed == nil {
		options.Failed = func(string, error, bool) {}
	}
	return &Pool{
		Pods: pods, options: options, store: records, log: log, wake: make(chan struct{}, 1),
		count: options.Count, shapes: make(map[string]*shape), spares: make(map[string]*spare),
	}
}

// Use says that a mount gets a pod of this shape now, and returns its key, which
// is empty when no spare can have the shape.
func (p *Pool) Use(settings volume.Settings) string {
	key, err := mountpod.ShapeKey(p.spec("", settings.Pod))
	if err != nil || key == "" {
		return "" // What is wrong with the settings is told by who makes the pod.
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == 0 {
		return key
	}
	if p.shapes[key] == nil {
		p.shapes[key] = &shape{Shape: store.Shape{Key: key}}
	}
	p.touch(p.shapes[key], settings.Pod)
	p.poke()
	return key
}

// touch notes that a shape is used, exactly enough for the retention. It runs
// under p.mu.
func (p *Pool) touch(used *shape, pod volume.PodShape) {
	const precision = 10
	now := time.Now().UTC()
	if now.Sub(used.LastUsed) < p.options.Retention/precision {
		return
	}
	used.LastUsed, used.Pod = now, pod
	if err := p.store.PutShape(used.Shape); err != nil {
		p.log.Warn("record shape of mount pods", logkeys.Error, err)
	}
}

func (p *Pool) spec(name string, pod volume.PodShape) mountpod.Spec {
	return mountpod.Spec{Name: name, LauncherDir: p.options.LauncherDir, Settings: volume.Settings{Pod: pod}}
}

// Taken is a spare that a mount may make its own: by Leave when that is
// recorded, or else Return.
type Taken struct {
	store.Spare
	// Session is the taker's to close after Leave.
	Session *launcher.Session
	pool    *Pool
}

// Take returns a spare of the shape key whose jfs-launch is connected, or nil.
// It does not block.
func (p *Pool) Take(key string) *Taken {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, candidate := range p.spares {
		if candidate.Shape == key && candidate.idle() {
			candidate.taken = true
			return &Taken{Spare: candidate.Spare, Session: candidate.session, pool: p}
		}
	}
	return nil
}

func (s *spare) idle() bool {
	if s.session == nil || s.taken || s.ended != nil {
		return false
	}
	select {
	case <-s.session.Done():
		return false
	default:
		return true
	}
}

// Return gives the spare back, which no record names as a mount's.
func (t *Taken) Return() {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	if left := t.pool.spares[t.PodName]; left != nil {
		left.taken = false
	}
	t.pool.poke()
}

// Leave takes the spare out of the pool after store.TakeSpare, and fails when
// its pod has ended since it was taken. What happens to the pod from here on is
// told to the mount.
func (t *Taken) Leave() error {
	p := t.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.spares[t.PodName]
	if left == nil {
		return fmt.Errorf("spare mount pod %s is not in the pool: %w", t.PodName, errdefs.ErrNotFound)
	}
	delete(p.spares, t.PodName)
	if left.ended == nil {
		close(left.stop)
	}
	if shape := p.shapes[t.Shape]; shape != nil {
		shape.pace = pace{notBefore: time.Now().Add(refillPause)}
	}
	p.poke()
	return left.ended
}

// Resize is that of Pods. Where Kubernetes cannot do it, there are no spares
// from then on: their small requests would stay with every mount.
func (p *Pool) Resize(ctx context.Context, client store.Client, spec mountpod.Spec) error {
	err := p.Pods.Resize(ctx, client, spec)
	if errdefs.IsNotImplemented(err) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.count > 0 {
			p.log.WarnContext(ctx, "no spare mount pods are kept: Kubernetes 1.33 or newer is needed", logkeys.Error, err)
		}
		p.count = 0
		p.poke()
	}
	return err
}

// PodChanged notes what the API server says of a pod, and tells whether the pod
// is a spare of this pool.
func (p *Pool) PodChanged(pod *corev1.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.spares[pod.Name]
	if found == nil {
		return false
	}
	trouble := mountpod.TroubleOf(pod)
	switch {
	case trouble.Reason != "":
		p.end(found, fmt.Errorf("spare mount pod %s: %s: %s: %w", pod.Name, trouble.Reason, trouble.Message, errdefs.ErrFailedPrecondition))
	case pod.DeletionTimestamp != nil:
		p.end(found, fmt.Errorf("spare mount pod %s is being deleted: %w", pod.Name, errdefs.ErrUnavailable))
	}
	return true
}

// PodRemoved is PodChanged for a pod that is gone.
func (p *Pool) PodRemoved(pod *corev1.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.spares[pod.Name]
	if found != nil {
		p.end(found, fmt.Errorf("spare mount pod %s is gone: %w", pod.Name, errdefs.ErrUnavailable))
	}
	return found != nil
}

// errUnwanted ends a spare with which nothing is wrong.
var errUnwanted = errors.New("no longer wanted")

// end makes Run delete the pod of a spare. It runs under p.mu.
func (p *Pool) end(s *spare, cause error) {
	if s.ended != nil {
		return
	}
	s.ended = cause
	close(s.stop)
	p.poke()
	shape := p.shapes[s.Shape]
	if shape == nil || errors.Is(cause, errUnwanted) || s.removing {
		return
	}
	if s.session != nil && time.Since(s.since) >= longestPause {
		shape.pace = pace{} // It was good for long enough.
	}
	again, tell := shape.pace.failures > 0, p.log.Debug
	if !again {
		tell = p.log.Warn // Once, and not again while it goes on.
	}
	shape.pace.fail()
	p.options.Failed(s.Image, cause, again)
	tell("spare mount pod ended", logkeys.Pod, s.PodName, logkeys.Image, s.Image, logkeys.Error, cause)
}

// poke wakes Run without blocking.
func (p *Pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Idle is how many spares wait for a mount.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	count := 0
	for _, each := range p.spares {
		if each.idle() {
			count++
		}
	}
	return count
}
