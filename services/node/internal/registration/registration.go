// Package registration makes the driver known to kubelet, as
// node-driver-registrar does for others: kubelet watches a directory for
// sockets and asks each for its plugin.
package registration

import (
	"context"
	"fmt"

	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// csiVersion is the version that kubelet wants to hear of a CSI driver; it
// takes any from 1.0.0 to below 2.0.0.
const csiVersion = "1.0.0"

// Server is the plugin registration service of one driver.
type Server struct {
	registrationv1.UnimplementedRegistrationServer
	driver   string
	endpoint string
	refused  chan string
}

// New makes the service of a driver whose CSI socket is at the path endpoint on
// the host.
func New(driver, endpoint string) *Server {
	return &Server{driver: driver, endpoint: endpoint, refused: make(chan string, 1)}
}

// GetInfo tells kubelet what the plugin is.
func (s *Server) GetInfo(context.Context, *registrationv1.InfoRequest) (*registrationv1.PluginInfo, error) {
	return &registrationv1.PluginInfo{
		Type: registrationv1.CSIPlugin, Name: s.driver, Endpoint: s.endpoint, SupportedVersions: []string{csiVersion},
	}, nil
}

// NotifyRegistrationStatus hears from kubelet whether it took the plugin.
func (s *Server) NotifyRegistrationStatus(
	_ context.Context, status *registrationv1.RegistrationStatus,
) (*registrationv1.RegistrationStatusResponse, error) {
	if !status.GetPluginRegistered() {
		select {
		case s.refused <- status.GetError():
		default:
		}
	}
	return &registrationv1.RegistrationStatusResponse{}, nil
}

// Wait blocks until ctx ends, or fails when kubelet refuses the plugin: kubelet
// does not try again before the socket is made anew.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case cause := <-s.refused:
		return fmt.Errorf("kubelet refused driver %s: %s", s.driver, cause)
	}
}
