//go:build kernel

package server_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/server"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func TestTheMountManagerPassesTheSuite(t *testing.T) {
	n := nodetest.NewNode(t)
	client := mountmgrtest.Dial(t, mountmgrtest.Serve(t, server.New(n.Manager, "node", nodetest.Namespace)))
	tests := 0
	mountmgrtest.Suite(t, func(t *testing.T) mountmgrtest.Subject {
		t.Helper()
		tests++
		directory := filepath.Join(n.KubeletDir(), fmt.Sprintf("suite-%d", tests))
		if err := os.Mkdir(directory, 0o750); err != nil {
			t.Fatal(err)
		}
		return mountmgrtest.Subject{Client: client, TargetDir: directory, Prepare: func(request *mountmgrv1.PublishVolumeRequest) {
			request.Secrets, request.VolumeContext = n.Secret(request.GetVolumeId()), n.Attributes()
		}}
	})
}

func TestUpgrade(t *testing.T) {
	n := nodetest.NewNode(t)
	client := mountmgrtest.Dial(t, mountmgrtest.Serve(t, server.New(n.Manager, "node", nodetest.Namespace)))
	ctx := t.Context()
	published, err := client.PublishVolume(ctx, &mountmgrv1.PublishVolumeRequest{
		VolumeId: "pv-1", TargetPath: n.Target("one"), AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
		Secrets: n.Secret("test"), VolumeContext: n.Attributes(),
	})
	if err != nil {
		t.Fatal(err)
	}
	id := published.GetMount().GetId()
	for method, want := range map[mountmgrv1.UpgradeMethod]func(error) bool{
		mountmgrv1.UpgradeMethod_UPGRADE_METHOD_UNSPECIFIED: errdefs.IsInvalidArgument,
		mountmgrv1.UpgradeMethod_UPGRADE_METHOD_BINARY:      errdefs.IsNotImplemented,
	} {
		if _, err := client.PlanUpgrade(ctx, &mountmgrv1.PlanUpgradeRequest{MountId: id, Method: method}); !want(err) {
			t.Errorf("plan with method %v: %v", method, err)
		}
	}
	const recreate = mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE
	plan, err := client.PlanUpgrade(ctx, &mountmgrv1.PlanUpgradeRequest{MountId: id, Method: recreate, Image: "mount:ce-v1.3.1"})
	if err != nil || !plan.GetCanHandOver() || len(plan.GetChanges()) != 1 || plan.GetChanges()[0].GetField() != "image" {
		t.Errorf("plan %v, %v, want the image to change", plan, err)
	}
	stream, err := client.UpgradeMount(ctx, &mountmgrv1.UpgradeMountRequest{MountId: id, Method: recreate, Image: "mount:ce-v1.3.1"})
	if err != nil {
		t.Fatal(err)
	}
	var last *mountmgrv1.Upgrade
	for phase := mountmgrv1.UpgradePhase_UPGRADE_PHASE_PLANNED; phase <= mountmgrv1.UpgradePhase_UPGRADE_PHASE_COMMITTED; phase++ {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if last = response.GetUpgrade(); last.GetPhase() != phase || last.GetMethod() != recreate {
			t.Errorf("phase %v, want %v", last, phase)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last phase: %v", err)
	}
	now, err := client.GetMount(ctx, &mountmgrv1.GetMountRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(now.GetMount().GetUpgrade(), last) || now.GetMount().GetClient().GetVersion() != last.GetToVersion() {
		t.Errorf("mount %v, want the upgrade %v", now.GetMount(), last)
	}
	_, err = client.AbortUpgrade(ctx, &mountmgrv1.AbortUpgradeRequest{MountId: id, UpgradeId: last.GetId()})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("abort of what is over: %v", err)
	}
	_, err = client.AbortUpgrade(ctx, &mountmgrv1.AbortUpgradeRequest{MountId: id, UpgradeId: "unknown"})
	if !errdefs.IsNotFound(err) {
		t.Errorf("abort of an unknown upgrade: %v", err)
	}
}
