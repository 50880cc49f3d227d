package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// PlanUpgrade compares the running settings with the present ones.
func (s *Server) PlanUpgrade(_ context.Context, request *mountmgrv1.PlanUpgradeRequest) (*mountmgrv1.PlanUpgradeResponse, error) {
	if err := s.checkUpgrade(request.GetMountId(), request.GetMethod()); err != nil {
		return nil, err
	}
	plan, err := s.manager.PlanUpgrade(request.GetMountId(), manager.UpgradeRequest{Image: request.GetImage()})
	if err != nil {
		return nil, err
	}
	response := &mountmgrv1.PlanUpgradeResponse{CanHandOver: plan.CanHandOver, Message: plan.Message}
	if plan.ExpectedPause > 0 {
		response.ExpectedPause = durationpb.New(plan.ExpectedPause)
	}
	for _, change := range plan.Changes {
		response.Changes = append(response.Changes, &mountmgrv1.SettingChange{
			Field: change.Field, OldValue: change.Old, NewValue: change.New, NeedsRemount: change.NeedsRemount,
		})
	}
	return response, nil
}

// UpgradeMount streams the phases of an upgrade, which goes on when the stream
// is cut.
func (s *Server) UpgradeMount(
	request *mountmgrv1.UpgradeMountRequest, stream grpc.ServerStreamingServer[mountmgrv1.UpgradeMountResponse],
) error {
	if err := s.checkUpgrade(request.GetMountId(), request.GetMethod()); err != nil {
		return err
	}
	budget := request.GetStallBudget()
	if budget != nil && (budget.CheckValid() != nil || budget.AsDuration() < 0) {
		return fmt.Errorf("stall_budget is no time: give a duration of 0 or more: %w", errdefs.ErrInvalidArgument)
	}
	wanted := manager.UpgradeRequest{Image: request.GetImage(), StallBudget: budget.AsDuration()}
	return s.manager.Upgrade(stream.Context(), request.GetMountId(), wanted, func(reached store.Upgrade) error {
		return stream.Send(&mountmgrv1.UpgradeMountResponse{Upgrade: upgrade(&reached)})
	})
}

// AbortUpgrade rolls an upgrade back.
func (s *Server) AbortUpgrade(
	ctx context.Context, request *mountmgrv1.AbortUpgradeRequest,
) (*mountmgrv1.AbortUpgradeResponse, error) {
	ended, err := s.manager.AbortUpgrade(ctx, request.GetMountId(), request.GetUpgradeId())
	if err != nil {
		return nil, err
	}
	return &mountmgrv1.AbortUpgradeResponse{Upgrade: upgrade(&ended)}, nil
}

func (s *Server) checkUpgrade(mountID string, method mountmgrv1.UpgradeMethod) error {
	if _, err := s.manager.Get(mountID); err != nil {
		return err
	}
	switch method {
	case mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE:
		return nil
	case mountmgrv1.UpgradeMethod_UPGRADE_METHOD_BINARY:
		return fmt.Errorf("method BINARY is not there in this release: use RECREATE: %w", errdefs.ErrNotImplemented)
	case mountmgrv1.UpgradeMethod_UPGRADE_METHOD_UNSPECIFIED:
	}
	return fmt.Errorf("method is %s: use RECREATE: %w", method, errdefs.ErrInvalidArgument)
}

// upgrade is what callers see of the record; nil is none.
func upgrade(u *store.Upgrade) *mountmgrv1.Upgrade {
	if u == nil {
		return nil
	}
	view := &mountmgrv1.Upgrade{
		Id: u.ID, Method: mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE, Phase: phase(u.Phase),
		StartedAt: timestamp(u.StartedAt), FinishedAt: timestamp(u.FinishedAt),
		FromImage: u.FromImage, ToImage: u.ToImage, FromVersion: u.FromVersion, ToVersion: u.ToVersion, Message: u.Message,
	}
	if u.Pause > 0 {
		view.Pause = durationpb.New(u.Pause)
	}
	return view
}

func phase(p store.UpgradePhase) mountmgrv1.UpgradePhase {
	phases := map[store.UpgradePhase]mountmgrv1.UpgradePhase{
		store.UpgradePlanned:        mountmgrv1.UpgradePhase_UPGRADE_PHASE_PLANNED,
		store.UpgradeSuccessorReady: mountmgrv1.UpgradePhase_UPGRADE_PHASE_SUCCESSOR_READY,
		store.UpgradeHandingOver:    mountmgrv1.UpgradePhase_UPGRADE_PHASE_HANDING_OVER,
		store.UpgradeAdopted:        mountmgrv1.UpgradePhase_UPGRADE_PHASE_ADOPTED,
		store.UpgradeCommitted:      mountmgrv1.UpgradePhase_UPGRADE_PHASE_COMMITTED,
		store.UpgradeRolledBack:     mountmgrv1.UpgradePhase_UPGRADE_PHASE_ROLLED_BACK,
	}
	return phases[p]
}
