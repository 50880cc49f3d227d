package manager

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

// podState is what matters of a mount pod.
type podState struct {
	// known is true once the API server has told of the pod.
	known    bool
	deleting bool
	gone     bool
	// failure says why the pod will never run again; nil while it may.
	failure error
	// imposed tells that kubelet has ended or refused the pod on purpose.
	imposed bool
	// problem is why it does not run yet, empty when there is nothing to tell,
	// and since is when that was first seen.
	problem string
	since   time.Time
	// stuckFrom is when a pod that is being deleted should long have gone.
	stuckFrom   time.Time
	annotations map[string]string
}

// errShortage is the cause of a pod that requests more than the node has.
var errShortage = errors.New("the node has less than the mount pod requests")

// minimalEnd is the least time that a pod gets to end.
const minimalEnd = time.Minute

func (m *mount) podChanged(pod *corev1.Pod) {
	state := podState{known: true, deleting: pod.DeletionTimestamp != nil, annotations: pod.Annotations}
	trouble := mountpod.TroubleOf(pod)
	state.imposed = trouble.Imposed
	if trouble.Reason != "" {
		state.problem = fmt.Sprintf("%s: %s: %s", nameOf(pod), trouble.Reason, trouble.Message)
		state.since = time.Now()
	}
	if trouble.Ended || trouble.Shortage {
		state.failure = podFailure(state.problem, trouble)
	}
	if pod.DeletionTimestamp != nil {
		state.stuckFrom = stuckFrom(pod)
	}
	m.setPod(string(pod.UID), state)
	m.noteUnresized(pod)
	m.mirror.poke()
}

func podFailure(problem string, trouble mountpod.Trouble) error {
	if trouble.Shortage {
		return fmt.Errorf("%s: %w: request less, or set enableAutoRemoveRequestResources: %w",
			problem, errShortage, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("%s: %w", problem, errdefs.ErrFailedPrecondition)
}

// stuckFrom is twice the grace period, or at least a minute, after the deletion
// was asked for.
func stuckFrom(pod *corev1.Pod) time.Time {
	grace := time.Duration(0)
	if seconds := pod.DeletionGracePeriodSeconds; seconds != nil {
		grace = time.Duration(*seconds) * time.Second
	}
	asked := pod.DeletionTimestamp.Add(-grace)
	return asked.Add(max(minimalEnd, 2*grace))
}

func (m *mount) podRemoved(uid string) {
	m.mu.Lock()
	failure := m.pods[uid].failure
	m.mu.Unlock()
	m.setPod(uid, podState{known: true, deleting: true, gone: true, failure: failure})
}

func (m *mount) setPod(uid string, state podState) {
	m.mu.Lock()
	if before := m.pods[uid]; before.problem != "" && state.problem != "" {
		state.since = before.since
	}
	m.pods[uid] = state
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	m.poke()
}

// forgetPods forgets all pods but that of the client. It runs under m.mu.
func (m *mount) forgetPods(kept string) {
	maps.DeleteFunc(m.pods, func(uid string, _ podState) bool { return uid != kept })
}
