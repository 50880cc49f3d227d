package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// endPatience is how long a jfs-launch that does not answer may still run
	// before it is killed.
	endPatience = 2 * time.Second
	// restartTimeout is how long jfs-launch may take to restart a client.
	restartTimeout = 10 * time.Second
	// recoverTimeout bounds a recovery. A connection that nobody serves turns
	// errors into hangs, so it is aborted then.
	recoverTimeout = 3 * time.Minute
)

// recover replaces a client that is gone without warning.
func (m *mount) recover(ctx context.Context) error {
	if m.connectionEnded(ctx) {
		return m.transition(lifecycle.Lost, "ConnectionEnded", "the kernel has ended the connection")
	}
	if m.session != nil && m.restartedInPlace(ctx) {
		return m.recovered()
	}
	m.closeSession()
	if serves, err := m.takeUpSuccessor(ctx); serves || err != nil {
		return err
	}
	recoverCtx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	pause(recoverCtx, m.recoveryPause())
	for attempt := 1; ; attempt++ {
		if drained, _, err := m.settleUnused(); drained || err != nil {
			return err
		}
		err := m.regainClient(recoverCtx)
		switch {
		case err == nil:
			return m.recovered()
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if reason := m.lostBy(ctx, err, recoverCtx.Err() != nil); reason != "" {
			return m.transition(lifecycle.Lost, reason, err.Error())
		}
		m.log.WarnContext(ctx, "client not replaced yet", logkeys.Error, err)
		pause(recoverCtx, backOff(attempt))
	}
}

// lostBy is why the mount is lost after a client could not be replaced, or ""
// when another attempt may help.
func (m *mount) lostBy(ctx context.Context, err error, late bool) string {
	switch {
	case errors.Is(err, errConnectionEnded):
		return "ConnectionEnded"
	case m.isGone(err):
		return "DescriptorLost"
	case late:
		return "RecoveryFailed"
	case m.stuck(ctx, m.snapshot()):
		return "MountPodStuck"
	}
	return ""
}

// regainClient takes up the client that is there, or else replaces it.
func (m *mount) regainClient(ctx context.Context) error {
	if m.resumeClassic(ctx) {
		return nil
	}
	return m.replaceClient(ctx)
}

func (m *mount) recovered() error {
	m.manager.Metrics.Recovered()
	if err := m.update(func(r *store.Record) error { r.Recoveries++; return nil }); err != nil {
		return err
	}
	return m.transition(lifecycle.Serving, "", "")
}

// restartedInPlace waits for jfs-launch to restart its client.
func (m *mount) restartedInPlace(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	if m.session.Status().GetState() == launchv1.Status_STATE_HANDED_OFF {
		return false
	}
	client := &runningClient{Client: m.snapshot().Client, session: m.session}
	if client.Mode == store.ModeClassic { // Kubelet restarts it, but not in a pod that is being deleted.
		go m.cancelWithPod(ctx, client.PodUID, cancel)
	}
	if _, err := client.await(ctx, false); err != nil {
		m.log.WarnContext(ctx, "client not restarted in its mount pod", logkeys.Error, err)
		return false
	}
	return m.identify(ctx, client.Client) == nil
}

// replaceClient starts a client in a new mount pod on the vault's descriptor.
// It takes up what the old one has left of its open files, if it was let go
// before. errdefs.ErrNotFound when nobody holds the descriptor.
func (m *mount) replaceClient(ctx context.Context) error {
	settings, err := m.settings()
	if err != nil {
		return err
	}
	state, err := m.manager.Secrets.State(m.id)
	if err != nil {
		return err
	}
	request, fuse, err := m.manager.Vault.Get(ctx, m.id)
	if err != nil {
		return err
	}
	defer func() { _ = fuse.Close() }()
	if clientfd.Ended(fuse) {
		return errConnectionEnded
	}
	old := m.snapshot().Client
	if err := checkRequest(old, request); err != nil {
		return err
	}
	if err := m.dropSuccessor(ctx); err != nil {
		return err
	}
	if err := m.awaitClientEnd(ctx, old, endPatience); err != nil {
		return err
	}
	if err := clientfd.Resend(fuse); err != nil {
		return err
	}
	client, err := m.launch(ctx, clientStart{
		settings: settings, fuse: fuse, state: state, successor: true,
		start: &launchv1.Start{Settings: request, SessionId: old.SessionID, SkipStages: true},
	})
	if err != nil {
		return err
	}
	if err := client.awaitServing(ctx); err != nil {
		client.session.Close()
		return errors.Join(err, m.dropSuccessor(ctx))
	}
	m.setSession(client.session)
	if err := m.identify(ctx, client.Client); err != nil {
		m.closeSession()
		return errors.Join(err, m.dropSuccessor(ctx))
	}
	return m.deletePod(ctx, old)
}

// drainTimeout is how long a client may take to finish after its mount was
// taken away.
const drainTimeout = 60 * time.Second

// drain takes an unused mount away: first the mount point, at which the client
// finishes by itself, then all that belonged to it.
func (m *mount) drain(ctx context.Context) error {
	record := m.snapshot()
	if m.session == nil {
		if session, err := m.reconnect(ctx, record.Client); err == nil {
			m.setSession(session)
		}
	}
	if err := errors.Join(kernelmount.Remove(record.MountPath), m.dropPrevious()); err != nil {
		return err
	}
	m.awaitEnd(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	vaultCtx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	err := errors.Join(m.manager.Vault.Remove(vaultCtx, m.id), m.deletePod(ctx, record.Client))
	if record.Successor != nil {
		err = errors.Join(err, m.deletePod(ctx, *record.Successor))
	}
	if err == nil {
		err = m.planCleanup(record)
	}
	if err == nil {
		err = errors.Join(m.manager.Secrets.Delete(m.id), m.manager.Secrets.DeleteState(m.id))
	}
	if err != nil {
		return fmt.Errorf("take the mount away: %w", err)
	}
	return m.transition(lifecycle.Gone, record.Reason, "")
}

// awaitEnd waits until the client has finished, and ends one that does not.
func (m *mount) awaitEnd(ctx context.Context) {
	if m.session == nil {
		return
	}
	defer m.closeSession()
	limit := time.NewTimer(drainTimeout)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			m.log.WarnContext(ctx, "client did not finish in time and is ended", logkeys.Duration, drainTimeout)
			_ = m.session.Stop(ctx, 0) // Its pod is deleted next.
			return
		case event, open := <-m.session.Events():
			if !open || event.GetClientEnded() != nil {
				return
			}
		}
	}
}
