package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// retryInterval paces a step that failed for a cause that may pass.
const retryInterval = time.Second

// mount is one FUSE connection. Its goroutine, run, is the only one that moves
// it from state to state; others read its record, add and drop references, and
// tell it of pod events.
type mount struct {
	manager *Manager
	id      string
	log     *slog.Logger

	// session is the connection to the serving client's jfs-launch; only run
	// uses it. nil while there is none.
	session Session
	// sessions hands the session to whoever refills the vault.
	sessions sessionSlot

	// pause is how long the last hand-over took; only run uses it.
	pause time.Duration

	// remounts counts the attempts to remount that have failed in a row; only
	// run uses it.
	remounts int
	// pace delays replacements that follow each other; only run uses it.
	pace pace

	// wake tells run that references or pods have changed.
	wake chan struct{}
	// mirror is told what of the record the mount pod shows.
	mirror mirror

	mu     sync.Mutex
	record store.Record
	// seen is what observe knows of earlier changes.
	seen observed
	// failure is the cause of a mount that ended before it served.
	failure error
	// changed is closed and replaced at every change of the record.
	changed chan struct{}
	// pods are what the API server last said of this mount's pods, by uid.
	pods map[string]podState
}

func newMount(manager *Manager, record store.Record) *mount {
	return &mount{
		manager: manager, id: record.ID, record: record, seen: observedOf(record),
		log:     manager.Log.With(logkeys.MountID, record.ID, logkeys.UniqueID, record.UniqueID),
		wake:    make(chan struct{}, 1),
		mirror:  newMirror(),
		changed: make(chan struct{}),
		pods:    make(map[string]podState),
	}
}

// run walks the mount through its life until it is gone or ctx ends. Ending
// ctx leaves everything as it is, for the next mount manager to go on with.
func (m *mount) run(ctx context.Context) {
	defer m.closeSession()
	for ctx.Err() == nil {
		state := m.snapshot().State
		step, ok := m.steps()[state]
		if !ok {
			return
		}
		if err := step(ctx); err != nil && ctx.Err() == nil {
			m.log.ErrorContext(ctx, "step failed", logkeys.State, state, logkeys.Error, err)
			pause(ctx, retryInterval)
		}
	}
}

// steps is what run does in each state. A step returns after it has moved the
// mount on, or with an error to be called again.
func (m *mount) steps() map[lifecycle.State]func(context.Context) error {
	return map[lifecycle.State]func(context.Context) error{
		lifecycle.Pending:     m.begin,
		lifecycle.Starting:    m.start,
		lifecycle.Serving:     m.serve,
		lifecycle.HandingOver: m.handOver,
		lifecycle.Recovering:  m.recover,
		lifecycle.Lost:        m.lost,
		lifecycle.Remounting:  m.remount,
		lifecycle.Draining:    m.drain,
		lifecycle.Failed:      m.discard,
	}
}

func (m *mount) begin(context.Context) error { return m.transition(lifecycle.Starting, "", "") }

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// snapshot returns a copy of the record.
func (m *mount) snapshot() store.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.Clone()
}

// transition persists the new state, with further changes of the record, before
// anything is done about it.
func (m *mount) transition(to lifecycle.State, reason, message string, changes ...func(*store.Record)) error {
	return m.update(func(r *store.Record) error {
		if err := lifecycle.Check(r.State, to); err != nil {
			return err
		}
		m.log.Info("state", logkeys.State, string(to), logkeys.Reason, reason, logkeys.Message, message)
		settle(r, to, message)
		reason, message = m.remark(r, to, reason, message)
		r.State, r.StateSince, r.Reason, r.Message = to, time.Now().UTC(), reason, message
		for _, change := range changes {
			change(r)
		}
		return nil
	})
}

// update changes the record: on disk first, in memory when that succeeded. A
// change that returns errUnchanged is none, and no error.
func (m *mount) update(change func(*store.Record) error) error {
	return m.updateBy(m.manager.Store.PutMount, change)
}

// updateBy is update with another way to put the record on disk.
func (m *mount) updateBy(put func(store.Record) error, change func(*store.Record) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.record.Clone()
	switch err := change(&next); {
	case errors.Is(err, errUnchanged):
		return nil
	case err != nil:
		return err
	}
	if next.State == lifecycle.Gone {
		if err := m.manager.Store.DeleteMount(m.id); err != nil {
			return err
		}
	} else if err := put(next); err != nil {
		return err
	}
	m.mirror.note(&m.record, &next)
	m.observe(m.record, next)
	m.record = next
	close(m.changed)
	m.changed = make(chan struct{})
	m.manager.watch.changed(next.Clone())
	m.poke()
	return nil
}

// poke wakes run without blocking.
func (m *mount) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// awaitServing waits until a client serves, the mount has failed, or ctx ends;
// the mount goes on starting when only the caller's patience has ended.
func (m *mount) awaitServing(ctx context.Context) (store.Record, error) {
	for {
		m.mu.Lock()
		record, changed, failure := m.record.Clone(), m.changed, m.failure
		m.mu.Unlock()
		switch {
		case record.State == lifecycle.Serving, record.State == lifecycle.HandingOver, record.State == lifecycle.Recovering:
			return record, nil // A request meets a stall at the worst, as for running applications.
		case failure != nil:
			return store.Record{}, failure
		case record.State.Ended():
			return store.Record{}, fmt.Errorf("mount %s ended while it was wanted: %w", m.id, errdefs.ErrUnavailable)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return store.Record{}, fmt.Errorf("volume is not mounted yet (%s %s): %w", record.State, m.waitsFor(record), ctx.Err())
		}
	}
}

// join records the reference when the mount has these settings and may take
// another target. It reports whether it did.
func (m *mount) join(settings volume.Settings, reference store.Reference) (bool, error) {
	joined := false
	err := m.update(func(r *store.Record) error {
		if !r.State.Shareable() || r.UniqueID != settings.UniqueID || !hasSettings(r, settings) {
			return errUnchanged
		}
		reference = asShown(r, reference)
		r.References = append(r.References, reference)
		r.DeleteAt = time.Time{}
		joined = true
		return nil
	})
	if joined {
		m.manager.assign(reference, m)
	}
	return joined, err
}

// errUnchanged makes update leave everything as it is.
var errUnchanged = errors.New("unchanged")

func (m *mount) shows(volumeID, target string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.record.References, func(r store.Reference) bool {
		return r.TargetPath == target && r.VolumeID == volumeID
	})
}

// dropReference forgets a target; run takes the mount away with the last one.
func (m *mount) dropReference(target string) error {
	err := m.update(func(r *store.Record) error {
		if r.State == lifecycle.Gone {
			return errUnchanged
		}
		r.References = slices.DeleteFunc(r.References, func(held store.Reference) bool { return held.TargetPath == target })
		return nil
	})
	if err != nil {
		return err
	}
	m.manager.forget(target, m)
	return nil
}

// owns tells whether the pod is that of the client or of its successor.
func (m *mount) owns(podName string) bool {
	record := m.snapshot()
	return record.Client.PodName == podName || record.Successor != nil && record.Successor.PodName == podName
}

// pod returns what is known of a pod, and a channel that closes at the next
// change of anything.
func (m *mount) pod(uid string) (podState, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[uid], m.changed
}

// settings resolves the settings again from what they were first resolved
// from, so that a mount that is made again is the same mount.
func (m *mount) settings() (volume.Settings, error) {
	record := m.snapshot()
	settings, err := m.resolve(record, record.Inputs, record.Image)
	return asAdopted(record, settings), err
}

// successorSettings are those of an upgrade that runs, or else the same again.
func (m *mount) successorSettings() (volume.Settings, error) {
	if record := m.snapshot(); record.Upgrade.Running() {
		return m.resolve(record, record.Upgrade.Inputs, record.Upgrade.Image)
	}
	return m.settings()
}

// resolve adds the Secret; image replaces the resolved one unless it is empty.
func (m *mount) resolve(record store.Record, inputs volume.Inputs, image string) (volume.Settings, error) {
	secret, err := m.manager.Secrets.Get(m.id)
	if errors.Is(err, fs.ErrNotExist) && record.Adopted != nil {
		return volume.Settings{}, fmt.Errorf("the Secret of mount %s, which was adopted from another driver, is not known: "+
			"let the mount manager read Secret %s in the mount namespace, or start one more pod that uses the volume: %w",
			m.id, record.Client.SecretName, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return volume.Settings{}, err
	}
	inputs.Secret = secret
	settings, err := volume.Resolve(inputs)
	if err == nil && image != "" {
		settings = settings.WithImage(image)
	}
	return settings, err
}

func (m *mount) closeSession() {
	m.sessions.set(nil)
	if m.session != nil {
		m.session.Close()
		m.session = nil
	}
}

// setSession makes session the serving client's.
func (m *mount) setSession(session Session) {
	if m.session != nil && m.session != session {
		m.session.Close()
	}
	m.session = session
	m.sessions.set(session)
}

// sessionSlot shares a session between goroutines.
type sessionSlot struct {
	mu      sync.Mutex
	session Session
}

func (s *sessionSlot) set(session Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = session
}

func (s *sessionSlot) get() Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}
