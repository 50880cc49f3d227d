package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// successorTimeout bounds the preparation of a successor, during which
	// the old client serves.
	successorTimeout = 100 * time.Second
	// handOffTimeout is how long the old client may take to stop at a request
	// boundary; it gives up by itself after 10 s.
	handOffTimeout = 15 * time.Second
)

// handOver replaces a client whose end is planned: the successor has
// everything open before the old one is told to stop, so that applications
// wait only for the state to be passed on.
func (m *mount) handOver(ctx context.Context) error {
	if serves, err := m.takeUpSuccessor(ctx); serves || err != nil {
		return err
	}
	if upgrade := m.snapshot().Upgrade; upgrade.Running() && upgrade.Phase == store.UpgradeAdopted {
		return m.transition(lifecycle.Serving, "", "")
	}
	if m.session == nil {
		session, err := m.reconnect(ctx, m.snapshot().Client)
		if err != nil {
			return m.transition(lifecycle.Recovering, "MountPodGone", err.Error())
		}
		m.setSession(session)
	}
	if due, err := m.awaitTurn(ctx); !due || err != nil {
		return err
	}
	successor, err := m.prepareSuccessor(ctx)
	if err != nil {
		return m.keepOld(ctx, err)
	}
	err = m.reach(store.UpgradeSuccessorReady)
	if err == nil {
		err = m.reach(store.UpgradeHandingOver)
	}
	if err != nil {
		return m.stayWithOld(ctx, successor, err)
	}
	return m.passOn(ctx, successor)
}

// takeUpSuccessor goes on with a replacement that a mount manager before this
// one had begun: a successor that serves is the client, any other is dropped.
func (m *mount) takeUpSuccessor(ctx context.Context) (bool, error) {
	record := m.snapshot()
	if record.Successor == nil {
		return false, nil
	}
	session, err := m.reconnect(ctx, *record.Successor)
	if err != nil {
		return false, m.dropSuccessor(ctx)
	}
	if session.Status().GetState() != launchv1.Status_STATE_SERVING {
		session.Close()
		return false, m.dropSuccessor(ctx)
	}
	m.setSession(session)
	if err := m.identify(ctx, *record.Successor); err != nil {
		return false, err
	}
	return true, errors.Join(m.transition(lifecycle.Serving, "", ""), m.deletePod(ctx, record.Client))
}

// dropSuccessor removes a client that does not serve, and returns when it has
// surely ended: two clients of one connection would take each other's requests.
func (m *mount) dropSuccessor(ctx context.Context) error {
	left := m.snapshot().Successor
	if left == nil {
		return nil
	}
	if err := m.deletePod(ctx, *left); err != nil {
		return err
	}
	if err := m.awaitClientEnd(ctx, *left, 0); err != nil {
		return err
	}
	return m.update(func(r *store.Record) error { r.Successor = nil; return nil })
}

// prepareSuccessor starts a client that waits for its state.
func (m *mount) prepareSuccessor(ctx context.Context) (*runningClient, error) {
	ctx, cancel := context.WithTimeout(ctx, successorTimeout)
	defer cancel()
	settings, err := m.successorSettings()
	if err != nil {
		return nil, err
	}
	request, fuse, err := m.manager.Vault.Get(ctx, m.id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = fuse.Close() }()
	if err := checkRequest(m.snapshot().Client, request); err != nil {
		return nil, err
	}
	successor, err := m.launch(ctx, clientStart{
		settings: settings, fuse: fuse, successor: true,
		start: &launchv1.Start{
			Settings: request, SessionId: m.snapshot().Client.SessionID, WaitForRelease: true, SkipStages: true,
		},
	})
	if err != nil {
		return nil, err
	}
	if _, err := successor.await(ctx, true); err != nil {
		successor.session.Close()
		return nil, errors.Join(err, m.dropSuccessor(ctx))
	}
	if successor.Mode == store.ModeClassic {
		pause(ctx, classicRest)
	}
	return successor, nil
}

// keepOld goes on with the old client when no successor could be prepared;
// while its process runs, that is tried again.
func (m *mount) keepOld(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if m.session == nil || !m.session.Alive() {
		return m.transition(lifecycle.Recovering, "MountPodGone", cause.Error())
	}
	return m.rollBack(ctx, fmt.Errorf("prepare successor: %w", cause))
}

// passOn lets the old client go and the successor serve. Applications wait
// from letGo on.
func (m *mount) passOn(ctx context.Context, successor *runningClient) error {
	began := time.Now()
	old := m.snapshot().Client
	state, err := m.letGo(ctx)
	if err != nil {
		return m.stayWithOld(ctx, successor, fmt.Errorf("let the old client go: %w", err))
	}
	serveCtx, cancel := context.WithTimeout(ctx, m.stallBudget(readyTimeout))
	defer cancel()
	err = letServe(serveCtx, successor, old.SessionID, state)
	if ctx.Err() != nil {
		return ctx.Err() // The next mount manager takes the successor up.
	}
	if err != nil {
		return m.rescue(ctx, successor, err)
	}
	m.pause = time.Since(began)
	m.manager.pauses.add(m.pause)
	m.manager.Metrics.HandedOver(m.pause)
	m.log.InfoContext(ctx, "handed over", logkeys.Duration, m.pause, logkeys.Pod, successor.PodName)
	m.setSession(successor.session)
	if err := m.identify(ctx, successor.Client); err != nil {
		return err
	}
	if err := m.transition(lifecycle.Serving, "", ""); err != nil {
		return err
	}
	return m.deletePod(ctx, old)
}

// stayWithOld drops the successor when the old client has not gone: it is busy,
// or its jfs-launch starts it again. A later attempt, or kubelet's end of its
// pod, settles it.
func (m *mount) stayWithOld(ctx context.Context, successor *runningClient, cause error) error {
	successor.session.Close()
	m.closeSession() // The next attempt finds out how the old one is.
	if err := m.dropSuccessor(ctx); err != nil {
		return errors.Join(cause, err)
	}
	return m.rollBack(ctx, cause)
}

// letGo makes the old client stop at a request boundary and returns its state.
// Clients up to 1.4.1 go even when they are busy: what they had read is put
// back into the queue.
func (m *mount) letGo(ctx context.Context) (launcher.State, error) {
	_, fuse, err := m.manager.Vault.Get(ctx, m.id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = fuse.Close() }()
	stopWaking, err := m.manager.Prober.Wake(ctx, m.snapshot().MountPath)
	if err != nil {
		return nil, err
	}
	state, err := m.session.HandOff(ctx, m.stallBudget(handOffTimeout))
	stopWaking()
	if err != nil {
		return nil, err
	}
	return state, errors.Join(m.manager.Secrets.PutState(m.id, state), clientfd.Resend(fuse))
}

func letServe(ctx context.Context, successor *runningClient, sessionID uint64, state launcher.State) error {
	if err := successor.session.Release(ctx, sessionID, state); err != nil {
		return err
	}
	return successor.awaitServing(ctx)
}

// rescue starts another client with the state that the successor failed to
// take up.
func (m *mount) rescue(ctx context.Context, failed *runningClient, cause error) error {
	m.log.WarnContext(ctx, "successor does not serve", logkeys.Pod, failed.PodName, logkeys.Error, cause)
	failed.session.Close()
	m.closeSession()
	// From here on with the settings that the mount had before.
	if err := m.endUpgrade(cause); err != nil {
		return err
	}
	if err := m.dropSuccessor(ctx); err != nil {
		return err
	}
	if err := m.replaceClient(ctx); err != nil {
		return errors.Join(cause, err, m.transition(lifecycle.Recovering, "SuccessorFailed", cause.Error()))
	}
	return m.transition(lifecycle.Serving, "", "")
}
