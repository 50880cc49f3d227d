package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// startTimeout bounds a whole start; kubelet waits 2 minutes.
	startTimeout = 110 * time.Second
	// initAttempts is how often a mount is made anew because its first client
	// returned no usable INIT request. Two of three starts return one.
	initAttempts = 8
	// readyTimeout bounds the first answer of a client that has the connection.
	readyTimeout = 30 * time.Second
)

// errInitUnknown says that a client serves, but the INIT request of its
// connection was not learned, so that no successor could take it over.
var errInitUnknown = errors.New("the client did not tell the connection's INIT request")

// start makes the kernel mount and its first client.
func (m *mount) start(ctx context.Context) error {
	err := m.makeConnection(ctx)
	if err == nil {
		return m.transition(lifecycle.Serving, "", "")
	}
	if ctx.Err() != nil {
		return ctx.Err() // The mount manager ends; the next one starts anew.
	}
	return m.fail(err)
}

// makeConnection makes the kernel mount and a client that serves it. It begins
// with taking away what an earlier attempt has left.
func (m *mount) makeConnection(ctx context.Context) error {
	startCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	settings, err := m.settings()
	for attempt := 0; err == nil; attempt++ {
		if err = m.undoStart(ctx); err != nil {
			break
		}
		pending, formatted := m.manager.formats.pending(settings)
		err = m.startOnce(startCtx, pending, attempt == initAttempts-1)
		switch {
		case err == nil:
			m.manager.formats.note(settings)
			return nil
		case errors.Is(err, errInitUnknown):
			m.log.InfoContext(ctx, "starting again", logkeys.Reason, err.Error())
			m.manager.formats.note(settings)
			err = nil
		case formatted && errdefs.IsFailedPrecondition(err) && startCtx.Err() == nil:
			// The metadata engine may have lost it, or somebody has changed it.
			m.log.InfoContext(ctx, "starting again with format", logkeys.Error, err)
			m.manager.formats.forget(settings)
			err = nil
		}
	}
	return err
}

// fail remembers the cause for whoever waits, and ends the mount.
func (m *mount) fail(cause error) error {
	m.mu.Lock()
	m.failure = cause
	m.mu.Unlock()
	return m.transition(lifecycle.Failed, "StartFailed", cause.Error())
}

// startOnce makes the kernel mount, deposits its descriptor and starts the
// client. acceptUnknown keeps a client whose INIT request was not learned.
func (m *mount) startOnce(ctx context.Context, settings volume.Settings, acceptUnknown bool) error {
	if m.manager.wantsClassic(settings) {
		return m.startClassic(ctx, settings)
	}
	fuse, minor, err := kernelmount.Mount(m.snapshot().MountPath, settings.Kernel)
	if err != nil {
		return err
	}
	defer func() { _ = fuse.Close() }()
	key := m.initKey(settings)
	known, err := m.manager.Store.InitRequest(key)
	if err != nil {
		return err
	}
	if err := m.manager.Vault.Put(ctx, m.id, known, minor, fuse); err != nil {
		return err
	}
	if err := m.update(func(r *store.Record) error { r.DeviceMinor = minor; return nil }); err != nil {
		return err
	}
	client, err := m.launch(ctx, clientStart{settings: settings, start: &launchv1.Start{Settings: known}, fuse: fuse})
	if err != nil {
		return err
	}
	m.setSession(client.session)
	request, err := client.await(ctx, false)
	if err != nil {
		return err
	}
	if len(request) == 0 && !acceptUnknown {
		return errInitUnknown
	}
	if err := m.learn(ctx, key, request, minor, fuse); err != nil {
		return err
	}
	return m.identify(ctx, client.Client)
}

// initKey names what decides the INIT request of a connection.
func (m *mount) initKey(settings volume.Settings) string {
	return m.manager.initKey(settings.Pod.Image, settings.Kernel.WritebackCache)
}

func (m *Manager) initKey(image string, writebackCache bool) string {
	return fmt.Sprintf("%s|%s|writeback_cache=%t", m.options.KernelRelease, image, writebackCache)
}

// learn remembers the INIT request of the connection and of its kind.
func (m *mount) learn(ctx context.Context, key string, request []byte, minor uint32, fuse *os.File) error {
	if len(request) == 0 {
		return nil
	}
	if err := m.manager.Store.PutInitRequest(key, request); err != nil {
		return err
	}
	if err := m.manager.Vault.Put(ctx, m.id, request, minor, fuse); err != nil {
		return err
	}
	return m.update(func(r *store.Record) error { r.InitRequest = request; return nil })
}

// identify asks a client that has the connection who it is, records it as the
// serving one, and tells its jfs-launch the session to continue after a crash.
func (m *mount) identify(ctx context.Context, client store.Client) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	told, err := m.manager.Prober.Ready(ctx, m.snapshot().MountPath)
	if err != nil {
		return fmt.Errorf("client of mount pod %s: %w", client.PodName, err)
	}
	// An engine that lost its data is formatted anew: no target may show that.
	if known := m.snapshot().FileSystemUUID; known != "" && told.UUID != known {
		return fmt.Errorf("the metadata engine holds file system %s instead of %s: %w", told.UUID, known, errdefs.ErrFailedPrecondition)
	}
	// First the state that it has taken up: after the record nobody would look
	// for it, and a later client must not find it.
	if err := m.manager.Secrets.DeleteState(m.id); err != nil {
		return err
	}
	if err := m.recordServing(client, told); err != nil {
		return err
	}
	return m.session.SetSession(ctx, told.SessionID)
}

func (m *mount) recordServing(client store.Client, told probe.Client) error {
	client.Version, client.SessionID = told.Version, told.SessionID
	client.Launcher = m.session.Process() // Another one when kubelet has restarted a classic pod.
	return m.update(func(r *store.Record) error {
		r.Client, r.Successor, r.FileSystemUUID = client, nil, told.UUID
		m.forgetPods(client.PodUID)
		if client.Mode != store.ModeClassic {
			settleAdoption(r)
		}
		return m.adopt(r)
	})
}

// undoStart takes away what an earlier attempt has left; nobody uses it.
func (m *mount) undoStart(ctx context.Context) error {
	record := m.snapshot()
	m.closeSession()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	err := errors.Join(
		kernelmount.Remove(record.MountPath),
		m.manager.Vault.Remove(ctx, m.id),
		m.deletePod(ctx, record.Client),
	)
	if err != nil {
		return fmt.Errorf("clear an earlier start: %w", err)
	}
	return m.update(func(r *store.Record) error {
		r.Client, r.DeviceMinor = store.Client{}, 0
		return nil
	})
}

// discard takes away a mount that never served.
func (m *mount) discard(ctx context.Context) error {
	if err := m.undoStart(ctx); err != nil {
		return err
	}
	if err := m.manager.Secrets.Delete(m.id); err != nil {
		return err
	}
	return m.transition(lifecycle.Gone, m.snapshot().Reason, m.snapshot().Message)
}
