// Package driver is the CSI Identity and Controller service, for the stock
// sidecars of Kubernetes and for other orchestrators.
package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/juicefs-csi/driver/libs/version"
)

// Identity is the CSI Identity service.
type Identity struct {
	csi.UnimplementedIdentityServer

	// Name is the name of the driver.
	Name string
}

// GetPluginInfo returns the name and the release of the driver.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.Name, VendorVersion: version.Release()}, nil
}

// GetPluginCapabilities says that there is a Controller service.
func (*Identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE,
		}},
	}}}, nil
}

// Probe says that the driver is ready: it keeps no connection that could be
// missing.
func (*Identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}
