package manager

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/facts"
)

// Facts is what Kubernetes knows of volumes. It must be safe for concurrent
// use.
type Facts interface {
	// Volume returns what could be read; the error names what could not.
	Volume(ctx context.Context, request facts.Request) (facts.Volume, error)
	// App returns a pod as it is now.
	App(ctx context.Context, namespace, name string) (*corev1.Pod, error)
}

// Node is what Kubernetes knows of the node. It must be safe for concurrent
// use.
type Node interface {
	// Labels does not block; an error while they are not known.
	Labels() (map[string]string, error)
}

// known is what settings depend on beside the publish request.
type known struct {
	// complete is false when nothing was looked up, since the target has its
	// reference already.
	complete bool
	config   volume.Config
	volume   facts.Volume
	node     volume.Object
	app      volume.App
}

// lookUp finds out what settings of the volume depend on. A volume that has a
// mount on this node is known by it. It must not run under m.mu: it may ask the
// API server.
func (m *Manager) lookUp(ctx context.Context, request PublishRequest) (known, error) {
	if err := m.Ready(); err != nil {
		return known{}, err
	}
	if m.byTarget(request.TargetPath) != nil {
		return known{}, nil
	}
	config, err := m.options.Config()
	if err != nil {
		return known{}, fmt.Errorf("driver configuration: %w", err)
	}
	found := known{complete: true, config: config}
	if found.node, err = m.node(config); err != nil {
		return known{}, err
	}
	inputs, live := m.liveInputs(request.VolumeID)
	if live && inputs.Claim.Name != "" && inputs.Defaults.ShareMode == m.options.Defaults.ShareMode {
		found.volume = facts.Volume{
			Name: inputs.VolumeName, Claim: inputs.Claim, StorageClass: inputs.StorageClass, ClassTemplatesSecret: inputs.ClassTemplatesSecret,
		}
		found.node.Labels, found.app = inputs.Node.Labels, inputs.App
		return found, nil
	}
	if found.volume, err = m.readVolume(ctx, request, live, config); err != nil {
		return known{}, err
	}
	found.app, err = m.readApp(ctx, request, found.volume.Claim.Name, config)
	return found, err
}

// readApp returns what mount pods take over from the application's pod, where
// the configuration wants that, and its name at least.
func (m *Manager) readApp(ctx context.Context, request PublishRequest, claim string, config volume.Config) (volume.App, error) {
	app := volume.App{Object: volume.Object{Namespace: request.Pod.Namespace, Name: request.Pod.Name}}
	if m.Facts == nil || request.Pod.Name == "" || !config.NeedsApp(m.options.Defaults.NodeSelector) {
		return app, nil
	}
	pod, err := m.Facts.App(ctx, request.Pod.Namespace, request.Pod.Name)
	if err != nil {
		return app, fmt.Errorf("enableNodeSelector or resourcePercentages needs the pod: %w: %w", err, errdefs.ErrUnavailable)
	}
	return volume.AppOf(pod, claim), nil
}

// readVolume fails only when something that cannot be read is needed.
func (m *Manager) readVolume(ctx context.Context, request PublishRequest, live bool, config volume.Config) (facts.Volume, error) {
	if m.Facts == nil {
		return facts.Volume{}, nil
	}
	needsClass := m.options.Defaults.ShareMode == volume.ShareByStorageClass && volume.IsDynamic(request.Attributes)
	read, err := m.Facts.Volume(ctx, facts.Request{
		VolumeID: request.VolumeID, TargetPath: request.TargetPath, Attributes: request.Attributes,
		Namespace: request.Pod.Namespace, Pod: request.Pod.Name, Class: needsClass, Live: live,
	})
	switch {
	case err == nil:
	case config.NeedsClaim():
		return facts.Volume{}, fmt.Errorf("a pvcSelector of mountPodPatch needs the claim of volume %s: %w: %w",
			request.VolumeID, err, errdefs.ErrUnavailable)
	case needsClass:
		return facts.Volume{}, fmt.Errorf("sharing by StorageClass needs the class of volume %s: %w: %w",
			request.VolumeID, err, errdefs.ErrUnavailable)
	default:
		m.Log.WarnContext(ctx, "settings without what is known of the claim", logkeys.VolumeID, request.VolumeID, logkeys.Error, err)
	}
	return read, nil
}

// node is what selectors see of this node.
func (m *Manager) node(config volume.Config) (volume.Object, error) {
	node := volume.Object{Name: m.options.Node}
	if m.Node == nil {
		return node, nil
	}
	labels, err := m.Node.Labels()
	if err != nil && config.NeedsNode() {
		return node, fmt.Errorf("a nodeSelector of mountPodPatch needs the labels of the node: %w: %w", err, errdefs.ErrUnavailable)
	}
	node.Labels = labels
	return node, nil
}

// liveInputs are those that a mount of the volume was made from. live tells
// that some target of this node shows the volume, be it in a mount that was
// made for another one.
func (m *Manager) liveInputs(volumeID string) (inputs volume.Inputs, live bool) {
	for _, each := range m.mountsOf(volumeID) {
		record := each.snapshot()
		if !record.State.Shareable() {
			continue
		}
		for _, reference := range record.References {
			live = live || reference.VolumeID == volumeID
		}
		if record.Inputs.VolumeID == volumeID && (inputs.Claim.Name == "" || record.Inputs.Claim.Name != "") {
			inputs, live = record.Inputs, true
		}
	}
	return inputs, live
}
