package manager

import (
	"cmp"
	"context"
	"fmt"
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
	if owner := m.ownerOf(pod); owner != nil {
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

// leaveAdoption forgets a pod that is gone, or is looked at again when it changes.
func (m *Manager) leaveAdoption(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.adopting, string(pod.UID))
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
	m.leaveAdoption(pod)
}

// recordAdopted begins the life of a mount that serves already. Its goroutine
// takes custody, as after a restart of the mount manager.
func (m *Manager) recordAdopted(ctx context.Context, found classic.Mount) error {
	inputs, err := m.adoptedInputs(ctx, found)
	if err != nil {
		return err
	}
	// What its client would tell, if it does not tell it.
	request, err := m.Store.InitRequest(m.initKey(found.Image, found.Kernel.WritebackCache))
	if err != nil {
		return err
	}
	unlock, err := m.lockTargets(found.References)
	if err != nil {
		return err
	}
	defer unlock()
	m.adoption.Lock()
	defer m.adoption.Unlock()
	found.References = slices.DeleteFunc(slices.Clone(found.References), func(r store.Reference) bool {
		return m.byTarget(r.TargetPath) != nil
	})
	for _, each := range m.all() {
		if each.snapshot().MountPath == found.MountPath {
			return each.adoptAnew(found)
		}
	}
	now := time.Now().UTC()
	return m.takeOver(ctx, found, store.Record{
		ID: randomID(), State: lifecycle.Serving, StateSince: now, CreatedAt: found.Client.StartedAt, BootID: m.options.BootID,
		Inputs: inputs, Image: found.Image, UniqueID: volume.SafeID(found.UniqueID), ShareMode: inputs.Defaults.ShareMode,
		FileSystem: found.FileSystem, FileSystemUUID: found.UUID, ReadOnly: isReadOnly(found.Options),
		MountPath: found.MountPath, DeviceMinor: found.DeviceMinor, InitRequest: request,
		Client: found.Client, References: found.References,
		Adopted: &store.Adopted{Options: found.Options, Kernel: found.Kernel},
	})
}

// takeOver records the mount and runs it.
func (m *Manager) takeOver(ctx context.Context, found classic.Mount, record store.Record) error {
	made := newMount(m, record)
	made.mu.Lock()
	defer made.mu.Unlock()
	for !m.announce(made, m.sharers(record.UniqueID)) {
		continue // Another one came beside it: it is none that this one could join.
	}
	var err error
	if found.Secret != nil {
		err = m.Secrets.Put(record.ID, found.Secret)
	}
	if err := m.commit(made, err); err != nil {
		return err
	}
	m.Log.InfoContext(ctx, "adopted a mount of the existing driver", logkeys.MountID, record.ID, logkeys.UniqueID, record.UniqueID,
		logkeys.Pod, found.Client.PodName, logkeys.MountPath, found.MountPath, logkeys.Entries, len(found.References))
	return nil
}

// adoptedInputs are what a publish of the volume would have.
func (m *Manager) adoptedInputs(ctx context.Context, found classic.Mount) (volume.Inputs, error) {
	config, err := m.options.Config()
	if err != nil {
		return volume.Inputs{}, fmt.Errorf("driver configuration: %w", err)
	}
	learned := known{complete: true, config: config}
	if learned.node, err = m.node(config); err != nil {
		return volume.Inputs{}, err
	}
	request := PublishRequest{
		VolumeID: found.Inputs.VolumeID, Attributes: found.Inputs.Attributes, MountOptions: found.Inputs.MountOptions,
	}
	if len(found.References) > 0 {
		request.TargetPath = found.References[0].TargetPath
		if learned.volume, err = m.readVolume(ctx, request, false, config); err != nil {
			return volume.Inputs{}, err
		}
	}
	inputs := m.inputs(request, learned)
	inputs.StorageClass = cmp.Or(inputs.StorageClass, found.Inputs.StorageClass)
	inputs.Defaults.ShareMode = m.shareMode(found)
	return inputs, nil
}

// lockTargets locks all targets or none: errdefs.ErrAborted while another call
// works on one of them.
func (m *Manager) lockTargets(references []store.Reference) (func(), error) {
	var unlocks []func()
	unlock := func() {
		for _, each := range unlocks {
			each()
		}
	}
	for _, reference := range references {
		one, err := m.lockTarget(reference.TargetPath)
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, one)
	}
	return unlock, nil
}

// adoptAnew notes that the existing driver has replaced the pod of a mount, and
// perhaps published it further, while this mount manager was away. The targets
// of found are locked and no other mount's.
func (m *mount) adoptAnew(found classic.Mount) error {
	var added []store.Reference
	err := m.update(func(r *store.Record) error {
		if r.Client.Mode != store.ModeClassic || r.Client.PodUID == found.Client.PodUID || r.State.Ended() {
			return errUnchanged
		}
		r.Client, r.DeviceMinor = found.Client, found.DeviceMinor
		r.Adopted = &store.Adopted{Options: found.Options, Kernel: found.Kernel}
		r.References = append(r.References, found.References...)
		r.DeleteAt = time.Time{}
		added = found.References
		return nil
	})
	if err != nil {
		return err
	}
	for _, reference := range added {
		m.manager.assign(reference, m)
	}
	return nil
}

// shareMode is what the existing driver has shared the mount by.
func (m *Manager) shareMode(found classic.Mount) volume.ShareMode {
	switch {
	case found.Inputs.VolumeID == found.UniqueID, m.options.Defaults.ShareMode == "":
		return volume.ShareByVolume
	case found.Inputs.StorageClass == found.UniqueID:
		return volume.ShareByStorageClass
	case found.FileSystem == found.UniqueID:
		return volume.ShareByFileSystem
	}
	return m.options.Defaults.ShareMode
}

// asShown is a reference as the targets of its volume show it already in a mount
// that was adopted: the existing driver may have shown a directory of a mount
// whose root we would have made that directory.
func asShown(r *store.Record, reference store.Reference) store.Reference {
	if r.Adopted == nil {
		return reference
	}
	at := slices.IndexFunc(r.References, func(k store.Reference) bool { return k.VolumeID == reference.VolumeID })
	if at >= 0 {
		reference.BindPath = r.References[at].BindPath
	}
	return reference
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

// join is mount.join, and gives an adopted mount what the publish brings; the
// target is dropped again where that fails.
func (m *Manager) join(candidate *mount, settings volume.Settings, reference store.Reference, request PublishRequest) (bool, error) {
	joined, err := candidate.join(settings, reference)
	if err != nil || !joined {
		return joined, err
	}
	if err := candidate.completeAdoption(request.Secret); err != nil {
		m.release(candidate, request.TargetPath)
		return true, err
	}
	return true, nil
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
		r.Adopted, r.SettingsHash = nil, settings.Hash
		r.DeleteDelay, r.CleanCache = settings.DeleteDelay, settings.CleanCache
		return nil
	})
}
