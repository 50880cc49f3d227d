package mountmgrtest

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// pause is how long each hand-over of the fake says that it took.
const pause = 20 * time.Millisecond

// PlanUpgrade implements the contract: any upgrade changes the image alone.
func (f *Fake) PlanUpgrade(_ context.Context, request *mountmgrv1.PlanUpgradeRequest) (*mountmgrv1.PlanUpgradeResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	mount, err := f.byID(request.GetMountId())
	if err != nil {
		return nil, err
	}
	if err := f.failures["PlanUpgrade"]; err != nil {
		return nil, err
	}
	response := &mountmgrv1.PlanUpgradeResponse{CanHandOver: true, ExpectedPause: durationpb.New(pause)}
	if image := request.GetImage(); image != "" && image != mount.GetClient().GetImage() {
		response.Changes = []*mountmgrv1.SettingChange{{Field: "image", OldValue: mount.GetClient().GetImage(), NewValue: image}}
	}
	return response, nil
}

// UpgradeMount implements the contract. It goes through all phases at once, or
// rolls back when Fail was told about UpgradeMount.
func (f *Fake) UpgradeMount(
	request *mountmgrv1.UpgradeMountRequest, stream grpc.ServerStreamingServer[mountmgrv1.UpgradeMountResponse],
) error {
	upgrades, err := f.upgrade(request)
	if err != nil {
		return err
	}
	for _, upgrade := range upgrades {
		if err := stream.Send(&mountmgrv1.UpgradeMountResponse{Upgrade: upgrade}); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fake) upgrade(request *mountmgrv1.UpgradeMountRequest) ([]*mountmgrv1.Upgrade, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	mount, err := f.byID(request.GetMountId())
	if err != nil {
		return nil, err
	}
	if request.GetMethod() == mountmgrv1.UpgradeMethod_UPGRADE_METHOD_UNSPECIFIED {
		return nil, fmt.Errorf("method is not set: %w", errdefs.ErrInvalidArgument)
	}
	f.made++
	client := mount.GetClient()
	upgrade := &mountmgrv1.Upgrade{
		Id: fmt.Sprintf("upgrade-%06d", f.made), Method: request.GetMethod(), StartedAt: timestamppb.Now(),
		FromImage: client.GetImage(), ToImage: cmp.Or(request.GetImage(), client.GetImage()),
		FromVersion: client.GetVersion(), ToVersion: client.GetVersion(),
	}
	phases := []mountmgrv1.UpgradePhase{
		mountmgrv1.UpgradePhase_UPGRADE_PHASE_PLANNED, mountmgrv1.UpgradePhase_UPGRADE_PHASE_SUCCESSOR_READY,
		mountmgrv1.UpgradePhase_UPGRADE_PHASE_HANDING_OVER, mountmgrv1.UpgradePhase_UPGRADE_PHASE_ADOPTED,
		mountmgrv1.UpgradePhase_UPGRADE_PHASE_COMMITTED,
	}
	if failure := f.failures["UpgradeMount"]; failure != nil {
		phases = append(phases[:2:2], mountmgrv1.UpgradePhase_UPGRADE_PHASE_ROLLED_BACK)
		upgrade.Message = failure.Error()
	} else {
		upgrade.Pause = durationpb.New(pause)
		client.Image = upgrade.GetToImage()
	}
	upgrade.FinishedAt = timestamppb.Now()
	steps := make([]*mountmgrv1.Upgrade, 0, len(phases))
	for _, phase := range phases {
		upgrade.Phase = phase
		steps = append(steps, proto.CloneOf(upgrade))
	}
	mount.Upgrade = upgrade
	f.tell(mount, false)
	return steps, nil
}

// AbortUpgrade implements the contract; an upgrade of the fake is always over.
func (f *Fake) AbortUpgrade(_ context.Context, request *mountmgrv1.AbortUpgradeRequest) (*mountmgrv1.AbortUpgradeResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	mount, err := f.byID(request.GetMountId())
	if err != nil {
		return nil, err
	}
	if mount.GetUpgrade().GetId() != request.GetUpgradeId() {
		return nil, fmt.Errorf("upgrade %s of mount %s is unknown: %w", request.GetUpgradeId(), request.GetMountId(), errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("upgrade %s is over: %w", request.GetUpgradeId(), errdefs.ErrFailedPrecondition)
}
