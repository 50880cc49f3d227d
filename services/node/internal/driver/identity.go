// Package driver is the CSI node plugin: it checks what kubelet asks for and
// hands it to a Mounter. It touches no target path, since a file system that
// does not answer would block it.
package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/juicefs-csi/driver/libs/version"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// Mounter does what kubelet asks for. Errors are those of errdefs, with a text
// for users.
type Mounter interface {
	Publish(ctx context.Context, request *mountmgrv1.PublishVolumeRequest) error
	Unpublish(ctx context.Context, request *mountmgrv1.UnpublishVolumeRequest) error
	Stats(ctx context.Context, request *mountmgrv1.GetVolumeStatsRequest) (*mountmgrv1.GetVolumeStatsResponse, error)
	// Ready says whether Publish can work.
	Ready(ctx context.Context) (bool, error)
}

// Identity is the CSI Identity service.
type Identity struct {
	csi.UnimplementedIdentityServer
	// Name of the driver.
	Name    string
	Mounter Mounter
}

// GetPluginInfo tells name and release.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.Name, VendorVersion: version.Release()}, nil
}

// GetPluginCapabilities tells that the driver has a controller, which is
// another process.
func (*Identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE,
		}},
	}}}, nil
}

// Probe is ready when the mount manager is. A mount manager that is away comes
// back by itself; one of another release does not, and is an error.
func (i *Identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	ready, err := i.Mounter.Ready(ctx)
	if err != nil && !errdefs.IsUnavailable(err) {
		return nil, err
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(ready && err == nil)}, nil
}
