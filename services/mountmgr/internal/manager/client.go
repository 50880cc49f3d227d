package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// podTimeout bounds the time from creating a mount pod until its jfs-launch
// greets: an image may have to be pulled.
const podTimeout = 90 * time.Second

// clientStart is one start of a client in a new mount pod.
type clientStart struct {
	settings volume.Settings
	start    *launchv1.Start
	fuse     *os.File
	state    launcher.State
	// successor records the client beside the serving one instead of as it.
	successor bool
}

// runningClient is a client whose jfs-launch we speak to.
type runningClient struct {
	store.Client
	session Session
}

// launchOnce starts the client in a spare mount pod or, without one that fits,
// in a new one. It returns when the client is being started; await tells how
// that went. On failure the pod is deleted.
func (m *mount) launchOnce(ctx context.Context, s clientStart) (*runningClient, error) {
	s.settings = m.shape(s.settings)
	if err := m.manager.options.CacheRoots.Prepare(s.settings.Pod); err != nil {
		return nil, err
	}
	if m.manager.wantsClassic(s.settings) {
		return m.launchClassic(ctx, s)
	}
	if err := m.manager.checkClassic(s.settings); err != nil {
		return nil, err
	}
	shape := m.manager.Spares.Use(s.settings)
	if running, err := m.launchInSpare(ctx, shape, s); running != nil || err != nil {
		return running, err
	}
	record := m.snapshot()
	client := store.Client{
		Mode:    m.manager.options.Mode,
		PodName: mountpod.Name(m.manager.options.Node, record.UniqueID, randomSuffix()),
		Image:   s.settings.Pod.Image, Shape: shape, StartedAt: time.Now().UTC(),
		RunAsUser: uint32(s.settings.Pod.UID()),
	}
	if err := m.recordClient(client, s.successor); err != nil {
		return nil, err
	}
	uid, err := m.manager.Host.Create(ctx, m.podSpec(record, client.PodName, s.settings.WithMountPoint(record.MountPath)))
	if err != nil {
		return nil, err
	}
	client.PodUID = uid
	running, err := m.startIn(ctx, client, s)
	if err != nil {
		return nil, errors.Join(err, m.deletePod(ctx, client))
	}
	return running, nil
}

// podSpec is a mount pod of the mount.
func (m *mount) podSpec(record store.Record, name string, settings volume.Settings) mountpod.Spec {
	return mountpod.Spec{
		Name: name, MountID: m.id, LauncherDir: m.manager.options.LauncherDir,
		Settings: settings, FileSystemUUID: record.FileSystemUUID, Targets: targets(record),
	}
}

func (m *mount) startIn(ctx context.Context, client store.Client, s clientStart) (*runningClient, error) {
	if err := m.recordClient(client, s.successor); err != nil {
		return nil, err
	}
	session, err := m.greet(ctx, client)
	if err != nil {
		return nil, err
	}
	client.Launcher = session.Process()
	if err := m.recordClient(client, s.successor); err != nil {
		session.Close()
		return nil, fmt.Errorf("start client: %w", err)
	}
	return m.startClient(ctx, client, session, s)
}

// startClient closes the session on failure.
func (m *mount) startClient(ctx context.Context, client store.Client, session *launcher.Session, s clientStart) (*runningClient, error) {
	s.start.Spec = s.settings.LaunchSpec(m.id, m.snapshot().MountPath)
	if err := session.Start(ctx, s.start, s.fuse, s.state); err != nil {
		session.Close()
		return nil, fmt.Errorf("start client: %w", err)
	}
	return &runningClient{Client: client, session: session}, nil
}

func (m *mount) recordClient(client store.Client, successor bool) error {
	return m.update(setClient(client, successor))
}

func setClient(client store.Client, successor bool) func(*store.Record) error {
	return func(r *store.Record) error {
		if successor {
			r.Successor = &client
		} else {
			r.Client = client
		}
		return nil
	}
}

// greet waits for the pod's jfs-launch, or until the pod can never run.
func (m *mount) greet(ctx context.Context, client store.Client) (*launcher.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- m.awaitPodFailure(ctx, client.PodUID, cancel) }()
	session, err := m.manager.Host.Connect(ctx, client)
	cancel()
	if failure := <-failed; failure != nil && err != nil {
		return nil, failure
	}
	return session, err
}

// await waits for the client to reach a state: waiting for its state, or
// serving. It returns the settings bytes when it serves, which may be empty.
func (c *runningClient) await(ctx context.Context, waiting bool) ([]byte, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("client of mount pod %s does not serve: %w", c.PodName, ctx.Err())
		case event, open := <-c.session.Events():
			if !open {
				return nil, fmt.Errorf("mount pod %s ended while its client started: %w", c.PodName, errdefs.ErrUnavailable)
			}
			switch {
			case event.GetServing() != nil:
				return event.GetServing().GetSettings(), nil
			case event.GetWaiting() != nil && waiting:
				return nil, nil
			}
			if err := startFailure(event); err != nil {
				return nil, err
			}
		}
	}
}

// awaitServing waits for a client that takes over a connection, which needs no
// stages: one that is not there soon is better replaced by another.
func (c *runningClient) awaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := c.await(ctx, false)
	return err
}

// startFailure is the error that an event means for a start; nil for the
// others.
func startFailure(event *launchv1.Event) error {
	if stage := event.GetStageEnded(); stage != nil && !stage.GetSucceeded() {
		return fmt.Errorf("mount failed at %s: %s: %w", stage.GetName(), describe(stage.GetExit()), errdefs.ErrFailedPrecondition)
	}
	if ended := event.GetClientEnded(); ended != nil && !ended.GetRestarting() {
		return fmt.Errorf("mount failed: juicefs ended: %s: %w", describe(ended.GetExit()), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// deleteTimeout bounds the deletion of a pod.
const deleteTimeout = 15 * time.Second

// deletePod deletes the pod at once, also for a caller that has given up.
func (m *mount) deletePod(ctx context.Context, client store.Client) error {
	if client.PodName == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	if client.Mode == store.ModeClassic {
		return m.deleteClassic(ctx, client)
	}
	return m.manager.Host.Delete(ctx, client, 0)
}

func targets(record store.Record) []string {
	paths := make([]string, 0, len(record.References))
	for _, reference := range record.References {
		paths = append(paths, reference.TargetPath)
	}
	return paths
}
