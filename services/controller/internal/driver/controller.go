package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/controller/internal/deletion"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

// maxName is the longest name of a volume that CSI allows, in bytes.
const maxName = 128

// Remover removes the directory of a volume; see deletion.Remover.
type Remover interface {
	Remove(ctx context.Context, v deletion.Volume) error
}

// Controller is the CSI Controller service. Its errors are those of errdefs.
type Controller struct {
	csi.UnimplementedControllerServer

	Installation installation.Installation
	// Remover is nil without access to Kubernetes; volumes cannot be removed
	// then.
	Remover Remover
	// Lookup is nil without access to Kubernetes.
	Lookup Lookup

	recent recent
}

// ControllerGetCapabilities says what of CSI is there.
func (*Controller) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{
			Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		}},
	}}}, nil
}

// CreateVolume names the directory of a volume; the directory itself comes with
// the first mount. It is idempotent, since the id is made from the name alone.
// With Secrets the settings of a mount are checked.
func (c *Controller) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	capacity, err := checkCreate(request)
	if err != nil {
		return nil, err
	}
	id := volume.SafeID(request.GetName())
	attributes := maps.Clone(request.GetParameters())
	if attributes == nil {
		attributes = make(map[string]string, 2)
	}
	attributes[volume.AttributeSubPath] = id
	attributes[volume.AttributeCapacity] = strconv.FormatInt(capacity, 10)
	var mountOptions []string
	for _, capability := range request.GetVolumeCapabilities() {
		mountOptions = append(mountOptions, capability.GetMount().GetMountFlags()...)
	}
	wanted := made{capacity: capacity, attributes: attributes, mountOptions: mountOptions}
	if err := c.checkSettings(id, wanted, request.GetSecrets()); err != nil {
		return nil, fmt.Errorf("create volume %s: %w", id, err)
	}
	if err := c.recent.add(id, wanted); err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: id, CapacityBytes: capacity, VolumeContext: attributes,
	}}, nil
}

// checkCreate returns the capacity.
func checkCreate(request *csi.CreateVolumeRequest) (int64, error) {
	name := request.GetName()
	if name == "" || len(name) > maxName {
		return 0, fmt.Errorf("name of the volume has %d bytes, want 1 to %d: %w", len(name), maxName, errdefs.ErrInvalidArgument)
	}
	capabilities := request.GetVolumeCapabilities()
	if err := checkCapabilities(capabilities); err != nil {
		return 0, err
	}
	readOnly := !slices.ContainsFunc(capabilities, func(capability *csi.VolumeCapability) bool {
		return capability.GetAccessMode().GetMode() != csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	})
	switch {
	case readOnly:
		return 0, fmt.Errorf("a new volume that nobody can write would stay empty: %w", errdefs.ErrInvalidArgument)
	case request.GetVolumeContentSource() != nil:
		return 0, fmt.Errorf("content of a new volume from another one is not supported yet: %w", errdefs.ErrInvalidArgument)
	case request.GetParameters()[volume.AttributePathPattern] != "":
		return 0, fmt.Errorf("parameter %s needs the embedded provisioner (--provisioner): %w",
			volume.AttributePathPattern, errdefs.ErrInvalidArgument)
	}
	return capacityOf(request.GetCapacityRange())
}

// checkSettings derives the settings of a mount as the node will. Without
// Secrets there is nothing to derive them from: they come with the mount.
func (c *Controller) checkSettings(id string, wanted made, secret map[string]string) error {
	if len(secret) == 0 {
		return nil
	}
	inputs, err := c.Installation.Inputs()
	if err != nil {
		return err
	}
	inputs.VolumeID = id
	inputs.Attributes = wanted.attributes
	inputs.Secret = secret
	inputs.MountOptions = append(inputs.MountOptions, wanted.mountOptions...)
	_, err = volume.Resolve(inputs)
	return err
}

// DeleteVolume removes the directory of a volume that CreateVolume named. It
// succeeds, and removes nothing, without Secrets and for volumes that people
// made by hand, like the existing driver.
func (c *Controller) DeleteVolume(ctx context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := request.GetVolumeId()
	if id == "" {
		return nil, fmt.Errorf("volume id is missing: %w", errdefs.ErrInvalidArgument)
	}
	if len(request.GetSecrets()) == 0 {
		c.recent.forget(id)
		return &csi.DeleteVolumeResponse{}, nil
	}
	found, err := c.find(ctx, id, request.GetSecrets())
	if err != nil {
		return nil, err
	}
	if found != nil {
		if c.Remover == nil {
			return nil, fmt.Errorf("remove volume %s: the controller has no access to Kubernetes, where a Job would do it: %w",
				id, errdefs.ErrFailedPrecondition)
		}
		if err := c.Remover.Remove(ctx, *found); err != nil {
			return nil, err
		}
	}
	c.recent.forget(id)
	return &csi.DeleteVolumeResponse{}, nil
}

// find returns the volume to remove, nil when none is. Its PersistentVolume
// tells the directory and how to get there; before there is one, what
// CreateVolume was given does, and of a former process of the controller only
// the name of a provisioned volume is left.
func (c *Controller) find(ctx context.Context, id string, secret map[string]string) (*deletion.Volume, error) {
	if c.Lookup != nil {
		pv, err := c.Lookup(ctx, id)
		if err == nil {
			if pv.Spec.CSI.VolumeAttributes[volume.AttributeSubPath] == "" {
				return nil, nil
			}
			found := deletion.VolumeOf(pv, secret)
			return &found, nil
		}
		if !errors.Is(err, errdefs.ErrNotFound) {
			return nil, err
		}
	}
	if recent, found := c.recent.get(id); found {
		return &deletion.Volume{ID: id, Secret: secret, Attributes: recent.attributes, MountOptions: recent.mountOptions}, nil
	}
	provisioned := regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	if !provisioned.MatchString(id) {
		return nil, nil
	}
	return &deletion.Volume{ID: id, Secret: secret, Attributes: map[string]string{volume.AttributeSubPath: id}}, nil
}

// ValidateVolumeCapabilities confirms what volumes of this driver can do.
func (c *Controller) ValidateVolumeCapabilities(
	ctx context.Context, request *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	id := request.GetVolumeId()
	if id == "" {
		return nil, fmt.Errorf("volume id is missing: %w", errdefs.ErrInvalidArgument)
	}
	unsupported := checkCapabilities(request.GetVolumeCapabilities())
	if unsupported != nil && !errors.Is(unsupported, errUnsupported) {
		return nil, unsupported
	}
	found, err := c.exists(ctx, id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNoVolume(id)
	}
	if unsupported != nil {
		//nolint:nilerr // in CSI "not confirmed" is an answer, not an error
		return &csi.ValidateVolumeCapabilitiesResponse{Message: unsupported.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      request.GetVolumeContext(),
		VolumeCapabilities: request.GetVolumeCapabilities(),
		Parameters:         request.GetParameters(),
	}}, nil
}
