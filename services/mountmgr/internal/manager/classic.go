package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// classicRest is how long the old client goes on serving when the supervisor of a
// classic successor waits: each half second it reads .config of the mount. While
// that is not answered it cannot start its child, since Go tries out first how it
// waits for children, with one that has the same files open and ends by closing
// them.
const classicRest = 250 * time.Millisecond

// vaultPatience is how long a vault may be away before a step that needs it is
// given up, to be tried again.
const vaultPatience = 10 * time.Second

// wantsClassic says whether a client with these settings runs as the existing
// driver runs it.
func (m *Manager) wantsClassic(settings volume.Settings) bool {
	return m.hasClassic() && (m.options.ClassicPods || settings.Classic)
}

func (m *Manager) hasClassic() bool { return m.Classic != nil && m.options.Mode != store.ModeProcess }

// checkClassic fails with errdefs.ErrNotImplemented for clients that need a
// privileged pod where there are none.
func (m *Manager) checkClassic(settings volume.Settings) error {
	if !settings.Classic || m.hasClassic() {
		return nil
	}
	return fmt.Errorf("%s, which needs a privileged mount pod, and this mount manager makes none (--mount-mode): %w",
		settings.ClassicReason, errdefs.ErrNotImplemented)
}

// changeOfMode is the change of an upgrade that moves a client from one kind of
// mount pod to the other.
func (m *Manager) changeOfMode(running store.Client, wanted volume.Settings) []Change {
	change := Change{Field: "mountPods", Old: podKind(running.Mode == store.ModeClassic), New: podKind(m.wantsClassic(wanted))}
	if change.Old == change.New {
		return nil
	}
	return []Change{change}
}

func podKind(isClassic bool) string {
	if isClassic {
		return "classic"
	}
	return "unprivileged"
}

func (m *mount) target(client store.Client) classic.Target {
	record := m.snapshot()
	return classic.Target{MountID: m.id, MountPath: record.MountPath, DeviceMinor: record.DeviceMinor, Client: client}
}

// launchClassic is launch for a classic client.
func (m *mount) launchClassic(ctx context.Context, s clientStart) (*runningClient, error) {
	record := m.snapshot()
	secret, err := m.manager.Secrets.Get(m.id)
	if err != nil {
		return nil, err
	}
	client := store.Client{
		PodName: mountpod.Name(m.manager.options.Node, record.UniqueID, randomSuffix()),
		Image:   s.settings.Pod.Image, StartedAt: time.Now().UTC(),
		Mode: store.ModeClassic, Exchange: string(uuid.NewUUID()),
	}
	client.SecretName = client.PodName
	if m.manager.options.ClassicPods {
		client.SecretName = classic.SecretName(record.UniqueID)
	}
	if err := m.recordClient(client, s.successor); err != nil {
		return nil, err
	}
	session, uid, err := m.manager.Classic.Create(ctx, classic.Start{
		Target: m.target(client), Spec: m.podSpec(record, client.PodName, s.settings),
		ForExistingDriver: m.manager.options.ClassicPods,
		Credentials:       secret, SessionID: s.start.GetSessionId(),
		SkipStages: s.start.GetSkipStages(), Fresh: !s.successor, Wait: s.start.GetWaitForRelease(), State: s.state,
	})
	if err != nil {
		return nil, errors.Join(err, m.deletePod(ctx, client))
	}
	client.PodUID = uid
	running := &runningClient{Client: client, session: session}
	if err := m.meet(ctx, running, session, s.successor); err != nil {
		session.Close()
		return nil, errors.Join(err, m.deletePod(ctx, client))
	}
	return running, nil
}

// meet waits until the client's supervisor is there, or its pod can never run,
// and records who it is.
func (m *mount) meet(ctx context.Context, client *runningClient, session *classic.Session, successor bool) error {
	if err := m.recordClient(client.Client, successor); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- m.awaitPodFailure(ctx, client.PodUID, cancel) }()
	err := session.Meet(ctx)
	cancel()
	if failure := <-failed; failure != nil && err != nil {
		return failure
	}
	if err != nil {
		return err
	}
	client.Launcher = session.Process()
	return m.recordClient(client.Client, successor)
}

// startClassic starts a client that makes the kernel mount by itself and
// deposits its descriptor.
func (m *mount) startClassic(ctx context.Context, settings volume.Settings) error {
	path := m.snapshot().MountPath
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // Others pass through it to the mount.
		return fmt.Errorf("make mount point %s: %w", path, err)
	}
	client, err := m.launch(ctx, clientStart{settings: settings})
	if err != nil {
		return err
	}
	m.setSession(client.session)
	request, err := client.await(ctx, false)
	if err != nil {
		return err
	}
	minor, err := kernelmount.Minor(path)
	if err != nil {
		return err
	}
	err = m.update(func(r *store.Record) error {
		r.DeviceMinor, r.InitRequest = minor, request
		return nil
	})
	if err != nil {
		return err
	}
	return m.identify(ctx, client.Client)
}

// recordLauncher keeps who must end before another client may serve: kubelet
// starts the containers of classic pods again.
func (m *mount) recordLauncher(process launcher.Process) error {
	if m.snapshot().Client.Launcher == process {
		return nil
	}
	return m.update(func(r *store.Record) error { r.Client.Launcher = process; return nil })
}

// errNoClassic says that a classic client is not in reach of a mount manager that
// has no Kubernetes.
var errNoClassic = fmt.Errorf("classic mount pods need Kubernetes: %w", errdefs.ErrUnavailable)

func (m *mount) deleteClassic(ctx context.Context, client store.Client) error {
	if m.manager.Classic == nil {
		return fmt.Errorf("delete mount pod %s: %w", client.PodName, errNoClassic)
	}
	return m.manager.Classic.Delete(ctx, client, 0)
}

// reconnectClassic fails with custody.ErrAway, and has not asked the client for
// anything, when there is no vault: its supervisor sends what it is asked for to
// its keeper as well, and answers nobody before the keeper has it.
func (m *mount) reconnectClassic(ctx context.Context, client store.Client) (Session, error) {
	if m.manager.Classic == nil {
		return nil, errNoClassic
	}
	vault, cancel := context.WithTimeout(ctx, vaultPatience)
	defer cancel()
	if err := m.manager.Vault.Await(vault); err != nil {
		return nil, err
	}
	session, err := m.manager.Classic.Reconnect(ctx, m.target(client))
	if err != nil {
		return nil, err
	}
	return session, nil
}

// resumeClassic takes up a classic client that serves again: kubelet has started
// its container after all, or the existing driver has replaced its pod while
// this mount manager was away.
func (m *mount) resumeClassic(ctx context.Context) bool {
	client := m.snapshot().Client
	if client.Mode != store.ModeClassic {
		return false
	}
	session, err := m.reconnect(ctx, client)
	if err != nil {
		return false
	}
	m.setSession(session)
	if err := m.identify(ctx, client); err != nil {
		m.log.WarnContext(ctx, "client listens and does not serve", logkeys.Pod, client.PodName, logkeys.Error, err)
		m.closeSession()
		return false
	}
	return true
}

// cancelWithPod calls cancel as soon as the pod is not to run any more; it
// returns when ctx ends.
func (m *mount) cancelWithPod(ctx context.Context, podUID string, cancel func()) {
	for {
		state, changed := m.pod(podUID)
		if state.gone || state.deleting || state.failure != nil {
			cancel()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// isGone tells from what has failed that nobody holds the connection: it is not in
// the vault, and no client may be found any more that has it.
func (m *mount) isGone(err error) bool { return errdefs.IsNotFound(err) && !m.mayBeFound() }

func (m *mount) mayBeFound() bool {
	record := m.snapshot()
	_, err := kernelmount.Minor(record.MountPath)
	return record.Client.Mode == store.ModeClassic && err == nil
}

// isServedByOthers tells whether a client that is not known serves the
// connection: it is not ours to abort.
func (m *mount) isServedByOthers(ctx context.Context) bool {
	record := m.snapshot()
	if record.Client.Mode != store.ModeClassic {
		return false
	}
	if minor, err := kernelmount.Minor(record.MountPath); err != nil || minor != record.DeviceMinor {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, reconnectTimeout)
	defer cancel()
	_, err := m.manager.Prober.Ready(ctx, record.MountPath)
	return err == nil
}

// checkRequest fails for a classic client whose connection's INIT request is not
// known: its successor would take the first request for it.
func checkRequest(client store.Client, request []byte) error {
	if client.Mode == store.ModeClassic && len(request) == 0 {
		return fmt.Errorf("client %s of mount pod %s does not tell how its connection was set up, so none can take it over: "+
			"delete the application pods that use it: %w", client.Version, client.PodName, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// awaitClientEnd returns when a client has surely ended, so that another one may
// have its connection. When patience is over it is killed.
func (m *mount) awaitClientEnd(ctx context.Context, client store.Client, patience time.Duration) error {
	if client.Mode == store.ModeClassic && m.manager.Classic == nil {
		return client.Launcher.AwaitEnd(ctx, patience)
	}
	if client.Mode == store.ModeClassic {
		target := m.target(client)
		// A client that found no keeper has mounted a second time.
		return errors.Join(m.manager.Classic.End(ctx, target), kernelmount.Uncover(target.MountPath, target.DeviceMinor))
	}
	return client.Launcher.AwaitEnd(ctx, patience)
}
