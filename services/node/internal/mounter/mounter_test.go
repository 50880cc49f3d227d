package mounter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/node/internal/mounter"
)

func dial(t *testing.T, target string) *mounter.Remote {
	t.Helper()
	return dialFor(t, target, time.Minute)
}

func dialFor(t *testing.T, target string, timeout time.Duration) *mounter.Remote {
	t.Helper()
	remote, err := mounter.Dial(mounter.Options{Target: target, Caller: "juicefs-csi-node", ReachTimeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remote.Close(); err != nil {
			t.Error(err)
		}
	})
	return remote
}

func request(t *testing.T) *mountmgrv1.PublishVolumeRequest {
	t.Helper()
	return &mountmgrv1.PublishVolumeRequest{
		VolumeId: "volume", TargetPath: t.TempDir() + "/target",
		AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
	}
}

func TestCallsReachTheMountManager(t *testing.T) {
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	remote := dial(t, mountmgrtest.Serve(t, fake))
	request := request(t)
	if err := remote.Publish(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if fake.Published(request.GetTargetPath()) == nil {
		t.Error("nothing was published")
	}
	stats, err := remote.Stats(t.Context(), &mountmgrv1.GetVolumeStatsRequest{VolumeId: "volume", VolumePath: request.GetTargetPath()})
	if err != nil || stats.GetBytes().GetTotal() == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	err = remote.Unpublish(t.Context(), &mountmgrv1.UnpublishVolumeRequest{VolumeId: "volume", TargetPath: request.GetTargetPath()})
	if err != nil || fake.Published(request.GetTargetPath()) != nil {
		t.Errorf("unpublish: %v", err)
	}
}

func TestErrorsKeepCodeAndText(t *testing.T) {
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	remote := dial(t, mountmgrtest.Serve(t, fake))
	fake.Fail("PublishVolume", fmt.Errorf("bucket is missing in the Secret: %w", errdefs.ErrInvalidArgument))
	err := remote.Publish(t.Context(), request(t))
	if !errdefs.IsInvalidArgument(err) || err.Error() != "bucket is missing in the Secret" {
		t.Errorf("got %v", err)
	}
}

func TestOneHandshakeForEachConnection(t *testing.T) {
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	address := mountmgrtest.Serve(t, fake)
	again := address + "2"
	stop := mountmgrtest.ServeAt(t, fake, again)
	remote := dial(t, again)
	request := request(t)
	for range 5 {
		if err := remote.Publish(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	handshakes := fake.Handshakes()
	if len(handshakes) != 1 {
		t.Errorf("%d handshakes over one connection, want 1", len(handshakes))
	}
	if client := handshakes[0].GetClient(); client != "juicefs-csi-node/dev" {
		t.Errorf("handshake of client %q", client)
	}
	stop()
	// Another release takes the place, one that cannot be understood.
	other := mountmgrtest.NewFake(mountmgrtest.Options{})
	other.SetVersions(apiversion.Range{Version: 90, MinVersion: 90})
	mountmgrtest.ServeAt(t, other, again)
	err := remote.Publish(t.Context(), request)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("after another release took over: %v, want a failed precondition that tells to upgrade", err)
	}
	if other.Published(request.GetTargetPath()) != nil {
		t.Error("a call went to a mount manager of another version")
	}
}

func TestReady(t *testing.T) {
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	address := mountmgrtest.Serve(t, fake)
	if ready, err := dial(t, address).Ready(t.Context()); err != nil || !ready {
		t.Errorf("ready mount manager: %v, %v", ready, err)
	}
	fake.SetReady(false)
	if ready, err := dial(t, address).Ready(t.Context()); err != nil || ready {
		t.Errorf("starting mount manager: %v, %v", ready, err)
	}
	fake.SetVersions(apiversion.Range{Version: 90, MinVersion: 90})
	if _, err := dial(t, address).Ready(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mount manager of another version: %v", err)
	}
}

func TestNoMountManager(t *testing.T) {
	remote := dialFor(t, "unix://"+t.TempDir()+"/none.sock", 300*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := remote.Publish(ctx, request(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("caller's deadline is over: %v", err)
	}
	err := remote.Publish(t.Context(), request(t))
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "is its pod running?") {
		t.Errorf("nobody listens: %v", err)
	}
}
