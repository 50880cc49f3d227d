//go:build kernel

package server_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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

// The numbers are those of the mounts, while there are some and afterwards.
func TestMetrics(t *testing.T) {
	n := nodetest.NewNode(t)
	client := mountmgrtest.Dial(t, mountmgrtest.Serve(t, server.New(n.Manager, "node", nodetest.Namespace)))
	request := func(name string) *mountmgrv1.PublishVolumeRequest {
		return &mountmgrv1.PublishVolumeRequest{
			VolumeId: "pv-1", TargetPath: n.Target(name), AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
			Secrets: n.Secret("test"), VolumeContext: n.Attributes(),
		}
	}
	for _, name := range []string{"one", "two", "three"} {
		if _, err := client.PublishVolume(t.Context(), request(name)); err != nil {
			t.Fatal(err)
		}
	}
	wantMetrics(t, n, "published", map[string]float64{
		"mounts Serving": 1, "references": 3, "vault_descriptors": 1, "publish_seconds cold": 1, "publish_seconds warm": 2,
		"recoveries_total": 0, "handover_seconds": 0,
	})
	published := n.Manager.List()[0]
	n.Kubelet.Kill(published.Client.PodUID)
	n.Eventually("it is replaced", func() error {
		if now, err := n.Manager.Get(published.ID); err != nil || now.State != "Serving" || now.Recoveries != 1 {
			return fmt.Errorf("state %s, %d recoveries (%w)", now.State, now.Recoveries, err)
		}
		return nil
	})
	wantMetrics(t, n, "killed", map[string]float64{"mounts Serving": 1, "vault_descriptors": 1, "recoveries_total": 1})
	for _, name := range []string{"one", "two", "three"} {
		_, err := client.UnpublishVolume(t.Context(), &mountmgrv1.UnpublishVolumeRequest{VolumeId: "pv-1", TargetPath: n.Target(name)})
		if err != nil {
			t.Fatal(err)
		}
	}
	n.Eventually("the mount is gone", func() error {
		if left := n.Manager.List(); len(left) > 0 {
			return fmt.Errorf("%d mounts", len(left))
		}
		return nil
	})
	wantMetrics(t, n, "unpublished", map[string]float64{
		"mounts Serving": 0, "mounts Draining": 0, "references": 0, "vault_descriptors": 0, "publish_seconds cold": 1,
	})
}

// wantMetrics compares metrics, named without their prefix but with the value
// of their label.
func wantMetrics(t *testing.T, n *nodetest.Node, when string, want map[string]float64) {
	t.Helper()
	families, err := n.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := strings.TrimPrefix(family.GetName(), "juicefs_csi_mountmgr_")
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %s is %v, want %v", when, name, got[name], value)
		}
	}
}
