package manager

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// runVolumeStages runs what is due for the volume of a reference to a shared
// mount, once for all its references. What they do can be done again.
func (m *mount) runVolumeStages(ctx context.Context, request PublishRequest, reference store.Reference) error {
	if !reference.StagesDue || m.stagesDone(reference.VolumeID) {
		return nil
	}
	config, err := m.manager.options.Config()
	if err != nil {
		return fmt.Errorf("driver configuration: %w", err)
	}
	inputs := m.manager.inputs(request, known{config: config})
	record := m.snapshot()
	inputs.Defaults.ShareMode, inputs.StorageClass = record.ShareMode, record.Inputs.StorageClass
	settings, err := volume.Resolve(inputs)
	if err != nil {
		return err
	}
	for _, stage := range settings.VolumeStages {
		if err := m.runVolumeStage(ctx, stage); err != nil {
			return fmt.Errorf("volume %s: %w", reference.VolumeID, err)
		}
	}
	return m.update(func(r *store.Record) error {
		for i := range r.References {
			if r.References[i].VolumeID == reference.VolumeID {
				r.References[i].StagesDue = false
			}
		}
		return nil
	})
}

func (m *mount) stagesDone(volumeID string) bool {
	return slices.ContainsFunc(m.snapshot().References, func(r store.Reference) bool {
		return r.VolumeID == volumeID && !r.StagesDue
	})
}

// runVolumeStage runs one stage beside the client.
func (m *mount) runVolumeStage(ctx context.Context, stage volume.Stage) error {
	session := m.sessions.get()
	if session == nil {
		return fmt.Errorf("the client of mount %s is being replaced: try again: %w", m.id, errdefs.ErrUnavailable)
	}
	exit, succeeded, err := session.RunStage(ctx, stage.Launch())
	switch {
	case errdefs.IsNotImplemented(err): // Its pod is older than this mount manager, or a classic one.
		m.log.WarnContext(ctx, "stage left out for this volume", logkeys.Stage, stage.Name, logkeys.Error, err)
		return nil
	case err != nil:
		return err
	case !succeeded:
		return fmt.Errorf("%s: %s: %w", stage.Name, describe(exit), errdefs.ErrFailedPrecondition)
	}
	return nil
}
