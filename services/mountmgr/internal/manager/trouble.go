package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// problemPatience is how long a new pod may have a problem that may pass, such
// as an image that cannot be pulled: kubelet tries about three times meanwhile.
const problemPatience = 40 * time.Second

// requestsRemoved is the reason of a mount whose pods request nothing.
const requestsRemoved = "RequestsRemoved"

// config is the present configuration, or the empty one when it cannot be read:
// its switches have their defaults then.
func (m *Manager) config(ctx context.Context) volume.Config {
	config, err := m.options.Config()
	if err != nil {
		m.Log.WarnContext(ctx, "read the configuration", logkeys.Error, err)
		return volume.Config{}
	}
	return config
}

// launch makes a mount pod and starts the client in it, as launchOnce. A pod
// that requests more than the node has is made again without requests, where
// that is allowed.
func (m *mount) launch(ctx context.Context, s clientStart) (*runningClient, error) {
	running, err := m.launchOnce(ctx, s)
	if !errors.Is(err, errShortage) || m.snapshot().RequestsRemoved || !m.manager.config(ctx).RemovesRequests() {
		return running, err
	}
	m.log.WarnContext(ctx, "mount pods request nothing from now on", logkeys.Error, err)
	failed := m.update(func(r *store.Record) error {
		r.RequestsRemoved = true
		r.Reason, r.Message = requestsRemoved, err.Error()
		return nil
	})
	if failed != nil {
		return nil, errors.Join(err, failed)
	}
	return m.launchOnce(ctx, s)
}

// shape is the pod that the settings ask for, or one without requests.
func (m *mount) shape(settings volume.Settings) volume.Settings {
	if m.snapshot().RequestsRemoved {
		settings.Pod.Resources = mountpod.WithoutRequests(settings.Pod.Resources)
	}
	return settings
}

// remark keeps the reason of a mount without requests in sight while it serves.
// It runs in an update.
func (*mount) remark(r *store.Record, to lifecycle.State, reason, message string) (newReason, newMessage string) {
	if to == lifecycle.Serving && reason == "" && r.RequestsRemoved {
		return requestsRemoved, "the node has less than the mount pod would request: it requests nothing"
	}
	return reason, message
}

// waitsFor says what a mount that does not serve yet waits for.
func (m *mount) waitsFor(record store.Record) string {
	state, _ := m.pod(record.Client.PodUID)
	return cmp.Or(state.problem, record.Message, "its client starts")
}

// awaitPodFailure calls cancel and returns the cause when the pod fails, or has
// a problem for too long; nil when ctx ends first.
func (m *mount) awaitPodFailure(ctx context.Context, podUID string, cancel func()) error {
	for {
		state, changed := m.pod(podUID)
		if state.gone && state.failure == nil {
			state.failure = fmt.Errorf("mount pod was deleted while it started: %w", errdefs.ErrUnavailable)
		}
		if state.failure != nil {
			cancel()
			return state.failure
		}
		var patience <-chan time.Time
		if state.problem != "" {
			timer := time.NewTimer(time.Until(state.since.Add(problemPatience)))
			defer timer.Stop() //nolint:revive // There are few changes of a pod.
			patience = timer.C
		}
		select {
		case <-changed:
		case <-patience:
			cancel()
			return fmt.Errorf("%s: %w", state.problem, errdefs.ErrFailedPrecondition)
		case <-ctx.Done():
			return nil
		}
	}
}

// stuck tells that the pod of a client that does not serve any more cannot end,
// while somebody waits for the connection: only its end frees them.
func (m *mount) stuck(ctx context.Context, record store.Record) bool {
	state, _ := m.pod(record.Client.PodUID)
	if state.stuckFrom.IsZero() || time.Now().Before(state.stuckFrom) || !m.manager.config(ctx).AbortsStuckMounts() {
		return false
	}
	waiting, err := kernelmount.Waiting(record.DeviceMinor)
	return err == nil && waiting > 0
}
