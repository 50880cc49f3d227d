package manager

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// adoptTimeout is how long a mount of the existing driver is tried to be
// adopted; the next change of its pod begins anew.
const adoptTimeout = time.Minute

// classicPodChanged hears of a pod without our label: one that runs a client as
// the existing driver does, ours or its own.
func (m *Manager) classicPodChanged(ctx context.Context, pod *corev1.Pod) {
	if owner := m.byPod(pod.Name); owner != nil {
		owner.podChanged(pod)
		return
	}
	if m.Classic == nil {
		return
	}
	id := pod.Annotations[classic.MountIDAnnotation]
	m.mu.Lock()
	stray := m.mounts[id] != nil
	skip := stray || m.adopting[string(pod.UID)] || pod.Status.Phase != corev1.PodRunning
	if !skip {
		m.adopting[string(pod.UID)] = true
	}
	m.mu.Unlock()
	if stray && pod.DeletionTimestamp == nil {
		// Left by a mount manager that died before it could delete it.
		client := store.Client{PodName: pod.Name, PodUID: string(pod.UID), Exchange: pod.Labels[classic.UpgradeUUIDLabel]}
		if err := m.Classic.Delete(ctx, client, 0); err != nil {
			m.Log.WarnContext(ctx, "delete stray mount pod", logkeys.Pod, pod.Name, logkeys.Error, err)
		}
	}
	if !skip {
		pod := pod.DeepCopy()
		m.running.Go(func() { m.adoptPod(ctx, pod) })
	}
}

func (m *Manager) byPod(name string) *mount {
	for _, each := range m.all() {
		if each.owns(name) {
			return each
		}
	}
	return nil
}

// adoptPod takes a mount of the existing driver over. It tells once why it
// cannot.
func (m *Manager) adoptPod(ctx context.Context, pod *corev1.Pod) {
	timed, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	var err error
	for timed.Err() == nil {
		var found classic.Mount
		if found, err = m.Classic.Inspect(timed, pod); err == nil {
			err = m.recordAdopted(ctx, found)
		}
		if err == nil {
			return
		}
		if errdefs.IsInvalidArgument(err) {
			m.Log.WarnContext(ctx, "mount pod is not adopted", logkeys.Pod, pod.Name, logkeys.Error, err)
			return
		}
		pause(timed, retryInterval)
	}
	m.Log.WarnContext(ctx, "mount pod is not adopted yet", logkeys.Pod, pod.Name, logkeys.Error, err)
	m.mu.Lock()
	delete(m.adopting, string(pod.UID))
	m.mu.Unlock()
}

// recordAdopted begins the life of a mount that serves already. Its goroutine
// takes custody, as after a restart of the mount manager.
func (m *Manager) recordAdopted(ctx context.Context, found classic.Mount) error {
	config, err := m.options.Config()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, each := range m.mounts {
		if each.snapshot().MountPath == found.MountPath {
			return each.adoptAnew(found)
		}
	}
	// What its client would tell, if it does not tell it.
	request, err := m.Store.InitRequest(m.initKey(found.Image, found.Kernel.WritebackCache))
	if err != nil {
		return err
	}
	inputs := found.Inputs
	inputs.Config, inputs.Defaults = config, m.options.Defaults
	inputs.Node = volume.Object{Name: m.options.Node, Labels: m.options.NodeLabels}
	id, now := randomID(), time.Now().UTC()
	if found.Secret != nil {
		if err := m.Secrets.Put(id, found.Secret); err != nil {
			return err
		}
	}
	record := store.Record{
		ID: id, State: lifecycle.Serving, StateSince: now, CreatedAt: found.Client.StartedAt, BootID: m.options.BootID,
		Inputs: inputs, Image: found.Image, UniqueID: volume.SafeID(found.UniqueID), ShareMode: m.shareMode(found),
		FileSystem: found.FileSystem, FileSystemUUID: found.UUID, ReadOnly: isReadOnly(found.Options),
		MountPath: found.MountPath, DeviceMinor: found.DeviceMinor, InitRequest: request,
		Client: found.Client, References: found.References,
		Adopted: &store.Adopted{Options: found.Options, Kernel: found.Kernel},
	}
	if err := m.Store.PutMount(record); err != nil {
		return errors.Join(err, m.Secrets.Delete(id))
	}
	m.Log.InfoContext(ctx, "adopted a mount of the existing driver", logkeys.MountID, id, logkeys.UniqueID, record.UniqueID,
		logkeys.Pod, found.Client.PodName, logkeys.MountPath, found.MountPath, logkeys.Entries, len(found.References))
	m.adopt(newMount(m, record)) //nolint:contextcheck // A mount outlives the look that found it.
	return nil
}

// adoptAnew notes that the existing driver has replaced the pod of a mount, and
// perhaps published it further, while this mount manager was away.
func (m *mount) adoptAnew(found classic.Mount) error {
	err := m.update(func(r *store.Record) error {
		if r.Client.Mode != store.ModeClassic || r.Client.PodUID == found.Client.PodUID || r.State.Ended() {
			return errUnchanged
		}
		r.Client, r.DeviceMinor = found.Client, found.DeviceMinor
		r.Adopted = &store.Adopted{Options: found.Options, Kernel: found.Kernel}
		for _, reference := range found.References {
			known := slices.ContainsFunc(r.References, func(k store.Reference) bool { return k.TargetPath == reference.TargetPath })
			if !known {
				r.References = append(r.References, reference)
			}
		}
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

func (m *Manager) shareMode(found classic.Mount) volume.ShareMode {
	if found.Inputs.VolumeID == found.UniqueID || m.options.Defaults.ShareMode == "" {
		return volume.ShareByVolume
	}
	return m.options.Defaults.ShareMode
}

func isReadOnly(options string) bool {
	list := strings.Split(options, ",")
	return slices.Contains(list, "ro") || slices.Contains(list, "read-only")
}

// hasSettings says whether a mount is what the settings ask for. The settings of
// one that was adopted are those of another driver: it is the same when it shows
// the same, and may be written if that is wanted.
func hasSettings(r *store.Record, settings volume.Settings) bool {
	if r.Adopted != nil {
		return !r.ReadOnly || settings.ReadOnly
	}
	return r.SettingsHash == settings.Hash
}

// asAdopted is settings with what the client of the existing driver was given:
// a successor without an upgrade is the same client again. VFS flags are left
// out, since no client knows them.
func asAdopted(record store.Record, settings volume.Settings) volume.Settings {
	adopted := record.Adopted
	if adopted == nil || adopted.Kernel.Source == "" || len(settings.Client) == 0 {
		return settings
	}
	settings.ReadOnly = record.ReadOnly
	settings.Kernel.WritebackCache = adopted.Kernel.WritebackCache
	settings.Kernel.DefaultPermissions = adopted.Kernel.DefaultPermissions
	if adopted.Kernel.MaxRead != 0 { // Clients before 1.3 do not ask for it.
		settings.Kernel.MaxRead = adopted.Kernel.MaxRead
	}
	settings.Client = slices.Clone(settings.Client)
	settings.Client[len(settings.Client)-1] = cleanOptions(adopted.Options)
	return settings
}

// cleanOptions writes the directory of the mount as volume.Resolve does.
func cleanOptions(options string) string {
	list := strings.Split(options, ",")
	for i, option := range list {
		if directory, found := strings.CutPrefix(option, "subdir="); found {
			list[i] = "subdir=" + strings.Trim(directory, "/")
		}
	}
	return strings.Join(list, ",")
}

// settleAdoption notes that a client of ours serves: from now on the mount has
// the settings that its record says.
func settleAdoption(r *store.Record) {
	if r.Adopted != nil {
		r.Adopted = &store.Adopted{}
	}
}

// completeAdoption keeps the Secret of a publish, which is more than what the
// existing driver has left of it. A mount that has a client of ours is one as
// any other then.
func (m *mount) completeAdoption(secret map[string]string) error {
	record := m.snapshot()
	if record.Adopted == nil {
		return nil
	}
	if err := m.manager.Secrets.Put(m.id, secret); err != nil {
		return err
	}
	if record.Client.Mode == store.ModeClassic {
		return nil
	}
	settings, err := m.settings()
	if err != nil {
		return err
	}
	return m.update(func(r *store.Record) error {
		r.Adopted, r.SettingsHash, r.BindPath = nil, settings.Hash, settings.BindPath
		return nil
	})
}
