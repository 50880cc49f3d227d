package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// PublishRequest asks for a volume at a target.
type PublishRequest struct {
	VolumeID     string
	TargetPath   string
	Attributes   map[string]string
	Secret       map[string]string
	MountOptions []string
	ReadOnly     bool
	AccessMode   store.AccessMode
	Pod          store.Pod
}

// Publish makes the volume visible at the target and blocks until a client
// serves it. It returns the mount, and whether it was made for this call.
func (m *Manager) Publish(ctx context.Context, request PublishRequest) (store.Record, bool, error) {
	began := time.Now()
	if err := m.checkTarget(request.TargetPath); err != nil {
		return store.Record{}, false, err
	}
	unlock, err := m.lockTarget(request.TargetPath)
	if err != nil {
		return store.Record{}, false, err
	}
	defer unlock()
	reference := store.Reference{
		VolumeID: request.VolumeID, TargetPath: request.TargetPath, ReadOnly: request.ReadOnly,
		AccessMode: request.AccessMode, Pod: request.Pod, Since: time.Now().UTC(),
	}
	found, err := m.lookUp(ctx, request)
	if err != nil {
		return store.Record{}, false, err
	}
	served, err := m.acquire(request, found, reference)
	if err != nil {
		return store.Record{}, false, err
	}
	record, err := m.show(ctx, served.mount, request, reference)
	if err != nil && !served.repeated {
		m.release(served.mount, request.TargetPath)
	}
	if err != nil {
		return store.Record{}, false, err
	}
	m.Metrics.Published(served.created, time.Since(began))
	return record, served.created, nil
}

// show waits until the mount serves and attaches the target to it, again when
// the connection was lost meanwhile.
func (m *Manager) show(
	ctx context.Context, served *mount, request PublishRequest, reference store.Reference,
) (store.Record, error) {
	var lost []uint32
	for {
		record, err := served.awaitServing(ctx)
		if err != nil {
			return store.Record{}, err
		}
		lost = append(lost, record.PreviousMinors()...)
		reference := recorded(record, reference)
		if err = served.runVolumeStages(ctx, request, reference); err == nil {
			err = m.attach(ctx, record, reference, lost...)
		}
		if served.snapshot().DeviceMinor == record.DeviceMinor {
			return record, err
		}
		lost = append(lost, record.DeviceMinor)
	}
}

// release drops a reference whose target could not be attached.
func (m *Manager) release(served *mount, target string) {
	if err := served.dropReference(target); err != nil {
		m.Log.Error("drop reference", logkeys.MountID, served.id, logkeys.TargetPath, target, logkeys.Error, err)
	}
}

// acquired is the mount that a target gets.
type acquired struct {
	*mount
	// created tells that it was made for this target.
	created bool
	// repeated tells that the target had its reference before this call, which
	// must not take it away again.
	repeated bool
}

// acquire finds or makes the mount and records the reference with it.
func (m *Manager) acquire(request PublishRequest, found known, reference store.Reference) (acquired, error) {
	repeated, err := m.claim(reference)
	if err != nil || repeated != nil {
		return acquired{mount: repeated, repeated: true}, err
	}
	served, created, err := m.provide(request, found, reference)
	if err != nil {
		m.forget(reference.TargetPath, nil)
		return acquired{}, err
	}
	return acquired{mount: served, created: created}, nil
}

// claim takes the target for the caller, so that no other volume conflicts with
// it from then on, or returns the mount that it has already.
func (m *Manager) claim(reference store.Reference) (*mount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lifetime == nil {
		return nil, fmt.Errorf("mount manager is starting: %w", errdefs.ErrUnavailable)
	}
	repeated, err := m.index.admit(reference)
	if err == nil && repeated == nil {
		m.index.add(reference, nil)
	}
	return repeated, err
}

// provide joins the reference to a mount with its settings, or makes one.
func (m *Manager) provide(request PublishRequest, found known, reference store.Reference) (*mount, bool, error) {
	if !found.complete {
		return nil, false, fmt.Errorf("target_path %s has just lost its mount: publish it again: %w", request.TargetPath, errdefs.ErrAborted)
	}
	inputs, settings, err := m.resolveShared(m.inputs(request, found))
	if err == nil {
		err = m.checkClassic(settings)
	}
	if err != nil {
		return nil, false, err
	}
	reference.BindPath, reference.StagesDue = settings.BindPath, len(settings.VolumeStages) > 0
	for {
		candidates := m.sharers(settings.UniqueID)
		for _, candidate := range candidates {
			joined, err := m.join(candidate, settings, reference, request)
			if err != nil || joined {
				return candidate, false, err
			}
		}
		made, err := m.create(inputs, settings, reference, candidates)
		if made != nil || err != nil {
			return made, true, err
		}
	}
}

// conflict says why wanted cannot be beside existing, or in its place: what a
// running pod sees at its target is never changed, and a volume of
// ReadWriteOncePod has one target.
func conflict(existing, wanted store.Reference) error {
	switch {
	case existing.TargetPath == wanted.TargetPath && existing.VolumeID != wanted.VolumeID:
		return fmt.Errorf("target_path %s shows volume %s already: unpublish it first: %w",
			wanted.TargetPath, existing.VolumeID, errdefs.ErrAlreadyExists)
	case existing.TargetPath == wanted.TargetPath && !sameAccess(existing, wanted):
		return fmt.Errorf("target_path %s shows volume %s already with another access (%s): unpublish it first: %w",
			wanted.TargetPath, existing.VolumeID, describeAccess(existing), errdefs.ErrAlreadyExists)
	case existing.TargetPath != wanted.TargetPath && existing.VolumeID == wanted.VolumeID &&
		(existing.AccessMode == store.SingleNodeSingleWriter || wanted.AccessMode == store.SingleNodeSingleWriter):
		return fmt.Errorf("volume %s has access mode %s and is published at %s: it can have one target only: %w",
			wanted.VolumeID, store.SingleNodeSingleWriter, existing.TargetPath, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func sameAccess(existing, wanted store.Reference) bool {
	known := existing.AccessMode != ""
	return existing.ReadOnly == wanted.ReadOnly && (!known || existing.AccessMode == wanted.AccessMode)
}

func describeAccess(reference store.Reference) string {
	if reference.ReadOnly {
		return string(reference.AccessMode) + ", read-only"
	}
	return string(reference.AccessMode)
}

func (m *Manager) inputs(request PublishRequest, found known) volume.Inputs {
	return volume.Inputs{
		VolumeID: request.VolumeID, VolumeName: found.volume.Name, Attributes: request.Attributes, MountOptions: request.MountOptions,
		ReadOnly: request.ReadOnly, Secret: request.Secret,
		Claim: found.volume.Claim, StorageClass: found.volume.StorageClass, ClassTemplatesSecret: found.volume.ClassTemplatesSecret,
		Node:   found.node,
		App:    found.app,
		Config: found.config, Defaults: m.options.Defaults,
	}
}

// create records a new mount and starts its goroutine; nil when there are other
// mounts to join than the candidates, which the caller has tried.
func (m *Manager) create(
	inputs volume.Inputs, settings volume.Settings, reference store.Reference, candidates []*mount,
) (*mount, error) {
	id := randomID()
	secret := inputs.Secret
	inputs.Secret = nil
	now := time.Now().UTC()
	made := newMount(m, store.Record{
		ID: id, State: lifecycle.Pending, StateSince: now, CreatedAt: now, BootID: m.options.BootID,
		Inputs: inputs, UniqueID: settings.UniqueID, ShareMode: settings.ShareMode, SettingsHash: settings.Hash,
		FileSystem: settings.FileSystem, ReadOnly: settings.ReadOnly,
		DeleteDelay: settings.DeleteDelay, CleanCache: settings.CleanCache,
		MountPath:  filepath.Join(m.options.Defaults.MountRoot, pathName(settings.UniqueID)+"-"+randomSuffix()),
		References: []store.Reference{reference},
	})
	// Others find it at once, and wait until it is on disk.
	made.mu.Lock()
	defer made.mu.Unlock()
	if !m.announce(made, candidates) {
		return nil, nil
	}
	if err := m.commit(made, m.Secrets.Put(id, secret)); err != nil {
		return nil, err
	}
	return made, nil
}

// commit puts a mount on disk that was announced, and runs it. Its mutex is held.
// err is what has failed before.
func (m *Manager) commit(made *mount, err error) error {
	if err == nil {
		err = m.Store.PutMount(made.record)
	}
	if err != nil {
		err = errors.Join(err, m.Secrets.Delete(made.id))
		made.record.State, made.failure = lifecycle.Gone, err
		m.retire(made, made.record)
		return err
	}
	m.launchMount(made, made.record.Clone())
	return nil
}

// Unpublish detaches the target and drops its reference. It never waits for a
// client. An unknown target is no error.
func (m *Manager) Unpublish(ctx context.Context, target string) error {
	if err := m.checkTarget(target); err != nil {
		return err
	}
	unlock, err := m.lockTarget(target)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.detach(ctx, target); err != nil {
		return err
	}
	held := m.byTarget(target)
	if held == nil {
		return nil
	}
	return held.dropReference(target)
}
