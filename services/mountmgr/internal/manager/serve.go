package manager

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// reconnectTimeout bounds the attempt to reach a jfs-launch that is either
// listening or dead.
const reconnectTimeout = 2 * time.Second

// serve watches over a mount whose client serves, until it has to move on.
func (m *mount) serve(ctx context.Context) error {
	if m.session == nil {
		return m.resumeServing(ctx)
	}
	if err := m.dropPrevious(); err != nil {
		m.log.WarnContext(ctx, "lost connection not taken away", logkeys.Error, err)
	}
	m.pace.serves(time.Now())
	for {
		moved, expires, err := m.decide()
		if moved || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-expires:
		case event, open := <-m.session.Events():
			if !open {
				m.closeSession()
				return nil // Called again: reconnect or recover.
			}
			if moved, err := m.onEvent(event); moved || err != nil {
				return err
			}
		}
	}
}

// decide moves a serving mount on when nobody uses it or its pod ends. The
// channel tells when an unused one has waited long enough; nil when it is used.
func (m *mount) decide() (bool, <-chan time.Time, error) {
	drained, at, err := m.settleUnused()
	if drained || err != nil {
		return drained, nil, err
	}
	moved, err := m.followPod()
	if at.IsZero() {
		return moved, nil, err
	}
	return moved, time.After(time.Until(at)), err
}

// followPod moves a serving mount on when its pod ends or it shall be upgraded.
func (m *mount) followPod() (bool, error) {
	switch state, _ := m.pod(m.snapshot().Client.PodUID); {
	case (state.gone || state.failure != nil) && m.session.Alive():
		// Kubelet says so when it begins to end a pod, at an eviction or a
		// shutdown of the node: its client serves as long as it is let.
		return true, m.transition(lifecycle.HandingOver, "MountPodEnding", cmp.Or(state.problem, "the mount pod was deleted by force"))
	case state.gone, state.failure != nil:
		return true, m.transition(lifecycle.Recovering, "MountPodGone", cmp.Or(state.problem, "the mount pod is gone"))
	case state.deleting:
		return true, m.transition(lifecycle.HandingOver, "MountPodDeleted", "the mount pod is being deleted")
	case m.snapshot().Upgrade.Running():
		return true, m.transition(lifecycle.HandingOver, "Upgrade", "the client is being replaced on request")
	}
	return false, nil
}

// onEvent moves a serving mount on when its jfs-launch says so.
func (m *mount) onEvent(event *launchv1.Event) (bool, error) {
	switch {
	case event.GetTerminating() != nil:
		return true, m.transition(lifecycle.HandingOver, "MountPodDeleted", "the mount pod is being deleted")
	case event.GetClientEnded() != nil:
		return true, m.transition(lifecycle.Recovering, "ClientEnded", "juicefs mount ended: "+describe(event.GetClientEnded().GetExit()))
	}
	return false, nil
}

// resumeServing takes up a serving mount again: after a restart of the mount
// manager, or when the connection to its jfs-launch has broken.
func (m *mount) resumeServing(ctx context.Context) error {
	session, err := m.reconnect(ctx, m.snapshot().Client)
	switch {
	case errors.Is(err, custody.ErrAway):
		return err // Nothing is known of the client.
	case err != nil:
		return m.transition(lifecycle.Recovering, "MountPodGone", err.Error())
	}
	m.setSession(session)
	if err := m.recordLauncher(session.Process()); err != nil {
		return err
	}
	status := session.Status()
	switch {
	case status.GetTerminating():
		return m.transition(lifecycle.HandingOver, "MountPodDeleted", "the mount pod is being deleted")
	case status.GetState() != launchv1.Status_STATE_SERVING:
		return m.transition(lifecycle.Recovering, "ClientEnded", "juicefs mount does not serve")
	}
	if err := m.ensureMounted(); err != nil {
		return m.transition(lifecycle.Lost, "Unmounted", err.Error())
	}
	return m.ensureCustody(ctx)
}

// ensureCustody returns the descriptor to a vault that was started without it
// while nobody spoke to this mount's jfs-launch.
func (m *mount) ensureCustody(ctx context.Context) error {
	held, err := m.manager.Vault.List(ctx)
	if err != nil || held[m.id] {
		return nil //nolint:nilerr // The vault is away; when it is back it is filled again.
	}
	return m.keepCustody(ctx)
}

func (m *mount) reconnect(ctx context.Context, client store.Client) (Session, error) {
	if client.Mode == store.ModeClassic {
		return m.reconnectClassic(ctx, client)
	}
	ctx, cancel := context.WithTimeout(ctx, reconnectTimeout)
	defer cancel()
	session, err := m.manager.Host.Reconnect(ctx, client)
	if err != nil {
		return nil, err
	}
	return session, nil
}

// keepCustody deposits the descriptor of this mount in a vault that lost it.
func (m *mount) keepCustody(ctx context.Context) error {
	session := m.sessions.get()
	if session == nil {
		return nil // Its client is being started; that deposits it.
	}
	settings, fuse, err := session.Borrow(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = fuse.Close() }()
	record := m.snapshot()
	if len(settings) == 0 {
		settings = record.InitRequest
	}
	m.log.InfoContext(ctx, "descriptor returned to the vault", logkeys.Pod, record.Client.PodName)
	return m.manager.Vault.Put(ctx, m.id, settings, record.DeviceMinor, fuse)
}
