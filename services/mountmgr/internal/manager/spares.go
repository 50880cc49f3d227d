package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// settleTimeout bounds one attempt to tell the API server of a pod that was
	// a spare; longestSettlePause the wait for the next one.
	settleTimeout      = 30 * time.Second
	longestSettlePause = time.Minute
	// labelPatience is how long a pod that was a spare may look like one for want
	// of a file system that it serves.
	labelPatience = 5 * time.Second
	// resizeRefused is the reason of a pod whose resources cannot be changed.
	resizeRefused = "ResizeRefused"
)

// launchInSpare starts the client in a spare mount pod. It returns nil without
// an error when there is none, or when it has ended in the meantime.
func (m *mount) launchInSpare(ctx context.Context, shape string, s clientStart) (*runningClient, error) {
	taken := m.manager.Spares.Take(shape)
	if taken == nil {
		return nil, nil
	}
	client := taken.Client()
	client.StartedAt, client.Launcher = time.Now().UTC(), taken.Session.Process()
	take := func(r store.Record) error { return m.manager.Store.TakeSpare(r, client.PodName) }
	if err := m.updateBy(take, setClient(client, s.successor)); err != nil {
		taken.Return()
		return nil, err
	}
	m.settle(client.PodName) //nolint:contextcheck // It is done also when this launch is given up.
	if err := taken.Leave(); err != nil {
		taken.Session.Close()
		return nil, m.dropSpare(ctx, client, err)
	}
	running, err := m.startClient(ctx, client, taken.Session, s)
	if err != nil {
		return nil, m.dropSpare(ctx, client, err)
	}
	return running, nil
}

// dropSpare gives a spare up that was taken and could not be used, and returns
// when nothing runs in it any more.
func (m *mount) dropSpare(ctx context.Context, client store.Client, cause error) error {
	if err := m.deletePod(ctx, client); err != nil {
		return errors.Join(cause, err)
	}
	if err := client.Launcher.AwaitEnd(ctx, 0); err != nil {
		return errors.Join(cause, err)
	}
	if ctx.Err() != nil {
		return cause
	}
	m.log.WarnContext(ctx, "spare mount pod not usable", logkeys.Pod, client.PodName, logkeys.Error, cause)
	return nil
}

// settle tells the API server, in the background, what a pod that was a spare
// is now. It is tried until it has succeeded or the mount has another pod, by
// the next mount manager if need be.
func (m *mount) settle(podName string) {
	m.manager.mu.Lock()
	lifetime := m.manager.lifetime
	m.manager.mu.Unlock()
	m.manager.running.Go(func() {
		for wait := retryInterval; lifetime.Err() == nil; wait = min(2*wait, longestSettlePause) {
			err := m.settleOnce(lifetime, podName)
			if err == nil {
				err = m.manager.Store.Settle(podName)
			}
			if err == nil {
				return
			}
			m.log.WarnContext(lifetime, "tell the API server of a mount pod", logkeys.Pod, podName, logkeys.Error, err)
			pause(lifetime, wait)
		}
	})
}

func (m *mount) settleOnce(ctx context.Context, podName string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := m.resize(ctx, podName); err != nil {
		return err
	}
	// What it serves is told with the labels, not in a request of its own.
	serving, done := context.WithTimeout(ctx, labelPatience)
	defer done()
	_, _ = m.awaitServing(serving)
	client, spec, err := m.clientIn(podName)
	if client == nil || err != nil {
		return err
	}
	return m.manager.Spares.Label(ctx, *client, spec)
}

// resize gives a pod that was a spare the resources of the mount.
func (m *mount) resize(ctx context.Context, podName string) error {
	client, spec, err := m.clientIn(podName)
	if client == nil || err != nil {
		return err
	}
	err = m.manager.Spares.Resize(ctx, *client, spec)
	switch {
	case err == nil, errdefs.IsNotFound(err) && !m.owns(podName):
		return nil
	case errdefs.IsUnavailable(err):
		return err
	}
	return m.notePodProblem(store.PodProblem{PodUID: client.PodUID, Reason: resizeRefused, Message: err.Error()})
}

// clientIn returns the client that runs in a pod, and what the pod is to be;
// nil when the pod is not this mount's any more.
func (m *mount) clientIn(podName string) (*store.Client, mountpod.Spec, error) {
	record := m.snapshot()
	client, resolve := &record.Client, m.settings
	switch {
	case record.State == lifecycle.Gone:
		return nil, mountpod.Spec{}, nil
	case record.Client.PodName == podName:
	case record.Successor != nil && record.Successor.PodName == podName:
		client, resolve = record.Successor, m.successorSettings
	default:
		return nil, mountpod.Spec{}, nil
	}
	settings, err := resolve()
	return client, m.podSpec(record, podName, settings), err
}

// noteUnresized remembers that kubelet cannot give a pod its resources, and
// forgets it when it can.
func (m *mount) noteUnresized(pod *corev1.Pod) {
	reason, message := mountpod.Unresized(pod)
	known := m.snapshot().PodProblem
	ofPod := known != nil && known.PodUID == string(pod.UID) && known.Reason != resizeRefused
	var err error
	switch {
	case reason != "" && m.owns(pod.Name):
		err = m.notePodProblem(store.PodProblem{PodUID: string(pod.UID), Reason: "Resize" + reason, Message: message})
	case reason == "" && ofPod:
		err = m.update(func(r *store.Record) error { r.PodProblem = nil; return nil })
	}
	if err != nil {
		m.log.Warn("note the state of a mount pod", logkeys.Pod, pod.Name, logkeys.Error, err)
	}
}

// notePodProblem remembers what is wrong with a pod that goes on serving.
func (m *mount) notePodProblem(problem store.PodProblem) error {
	isNew := false
	err := m.update(func(r *store.Record) error {
		if r.PodProblem != nil && *r.PodProblem == problem {
			return errUnchanged
		}
		r.PodProblem, isNew = &problem, true
		return nil
	})
	if isNew {
		m.log.Warn("mount pod keeps other resources than it should have",
			logkeys.PodUID, problem.PodUID, logkeys.Reason, problem.Reason, logkeys.Message, problem.Message)
	}
	return err
}

// shapesInUse are the shapes of the pods that the mounts have.
func (m *Manager) shapesInUse() map[string]bool {
	inUse := make(map[string]bool)
	for _, each := range m.all() {
		record := each.snapshot()
		inUse[record.Client.Shape] = true
		if record.Successor != nil {
			inUse[record.Successor.Shape] = true
		}
	}
	return inUse
}

// resumeSpares tells the pool what the recorded mounts use, and goes on with
// pods that were spares. It runs after resume.
func (m *Manager) resumeSpares() error {
	unsettled, err := m.Store.Unsettled()
	if err != nil {
		return err
	}
	for _, each := range m.all() {
		if err := each.noteShape(); err != nil {
			return fmt.Errorf("mount %s: %w", each.id, err)
		}
	}
	for podName, mountID := range unsettled {
		m.mu.Lock()
		owner := m.mounts[mountID]
		m.mu.Unlock()
		if owner != nil {
			owner.settle(podName)
		} else if err := m.Store.Settle(podName); err != nil {
			return err
		}
	}
	return nil
}

// noteShape brings the shape of the serving client up to date: other releases
// may know none, or give it another key.
func (m *mount) noteShape() error {
	settings, err := m.settings()
	if err != nil {
		return nil //nolint:nilerr // It is told when the mount needs them.
	}
	if m.snapshot().Client.Mode == store.ModeClassic || m.manager.wantsClassic(settings) {
		return nil // No spare mount pod is for a classic client.
	}
	shape := m.manager.Spares.Use(settings)
	return m.update(func(r *store.Record) error {
		if r.Client.PodName == "" || r.Client.Shape == shape {
			return errUnchanged
		}
		r.Client.Shape = shape
		return nil
	})
}

// ours tells the pods of this driver from those of the existing one.
func ours(pod *corev1.Pod) bool {
	_, spare := pod.Labels[mountpod.SpareLabel]
	return spare || pod.Labels[mountpod.MountIDLabel] != ""
}

// ownerOf returns the mount that a pod belongs to; nil when there is none. The
// labels of a pod that was a spare follow after a while.
func (m *Manager) ownerOf(pod *corev1.Pod) *mount {
	if id := pod.Labels[mountpod.MountIDLabel]; id != "" {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.mounts[id]
	}
	all := m.all()
	at := slices.IndexFunc(all, func(each *mount) bool { return each.owns(pod.Name) })
	if at < 0 {
		return nil
	}
	return all[at]
}
