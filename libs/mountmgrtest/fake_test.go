package mountmgrtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

func TestFakePassesTheSuite(t *testing.T) {
	mountmgrtest.Suite(t, func(t *testing.T) mountmgrtest.Subject {
		t.Helper()
		directory := t.TempDir()
		fake := mountmgrtest.NewFake(mountmgrtest.Options{KubeletDir: directory})
		return mountmgrtest.Subject{Client: mountmgrtest.Dial(t, mountmgrtest.Serve(t, fake)), TargetDir: directory}
	})
}

func TestFakeFailsWhenTold(t *testing.T) {
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	client := mountmgrtest.Dial(t, mountmgrtest.Serve(t, fake))
	request := &mountmgrv1.PublishVolumeRequest{
		VolumeId: "volume", TargetPath: t.TempDir() + "/target",
		AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_WRITER,
	}
	fake.Fail("PublishVolume", errdefs.ErrResourceExhausted)
	if _, err := client.PublishVolume(t.Context(), request); !errdefs.IsResourceExhausted(err) {
		t.Errorf("told to fail: %v", err)
	}
	fake.Fail("PublishVolume", nil)
	fake.SetReady(false)
	if _, err := client.PublishVolume(t.Context(), request); !errdefs.IsUnavailable(err) {
		t.Errorf("not ready: %v", err)
	}
	fake.SetReady(true)
	if _, err := client.PublishVolume(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if fake.Published(request.GetTargetPath()).GetVolumeId() != "volume" {
		t.Error("the published request is not told")
	}
}

func TestFakeUpgrades(t *testing.T) {
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	client := mountmgrtest.Dial(t, mountmgrtest.Serve(t, fake))
	published, err := client.PublishVolume(t.Context(), &mountmgrv1.PublishVolumeRequest{
		VolumeId: "volume", TargetPath: t.TempDir() + "/target",
		AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_SINGLE_NODE_WRITER,
	})
	if err != nil {
		t.Fatal(err)
	}
	last := upgrade(t, client, published.GetMount().GetId())
	if last.GetPhase() != mountmgrv1.UpgradePhase_UPGRADE_PHASE_COMMITTED || last.GetToImage() != "juicefs/mount:new" {
		t.Errorf("last phase %v", last)
	}
	fake.Fail("UpgradeMount", errors.New("successor did not start"))
	last = upgrade(t, client, published.GetMount().GetId())
	if last.GetPhase() != mountmgrv1.UpgradePhase_UPGRADE_PHASE_ROLLED_BACK || last.GetMessage() != "successor did not start" {
		t.Errorf("last phase %v", last)
	}
}

func upgrade(t *testing.T, client mountmgrv1.MountManagerServiceClient, id string) *mountmgrv1.Upgrade {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := client.UpgradeMount(ctx, &mountmgrv1.UpgradeMountRequest{
		MountId: id, Image: "juicefs/mount:new", Method: mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE,
	})
	if err != nil {
		t.Fatal(err)
	}
	var last *mountmgrv1.Upgrade
	for {
		response, err := stream.Recv()
		if err != nil {
			return last
		}
		last = response.GetUpgrade()
	}
}
