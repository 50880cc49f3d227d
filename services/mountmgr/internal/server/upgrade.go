package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// upgradable is what this release answers for a mount that it knows.
func (s *Server) upgradable(mountID string) error {
	if _, err := s.manager.Get(mountID); err != nil {
		return err
	}
	return fmt.Errorf("upgrade of mount %s: this release replaces clients only when their mount pods are deleted: %w",
		mountID, errdefs.ErrNotImplemented)
}

// PlanUpgrade is not there yet.
func (s *Server) PlanUpgrade(_ context.Context, request *mountmgrv1.PlanUpgradeRequest) (*mountmgrv1.PlanUpgradeResponse, error) {
	return nil, s.upgradable(request.GetMountId())
}

// UpgradeMount is not there yet.
func (s *Server) UpgradeMount(
	request *mountmgrv1.UpgradeMountRequest, _ grpc.ServerStreamingServer[mountmgrv1.UpgradeMountResponse],
) error {
	return s.upgradable(request.GetMountId())
}

// AbortUpgrade is not there yet.
func (s *Server) AbortUpgrade(_ context.Context, request *mountmgrv1.AbortUpgradeRequest) (*mountmgrv1.AbortUpgradeResponse, error) {
	return nil, s.upgradable(request.GetMountId())
}
