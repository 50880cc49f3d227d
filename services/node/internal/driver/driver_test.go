package driver_test

import (
	"context"
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/node/internal/driver"
)

// recorder is a Mounter that notes what it is asked for.
type recorder struct {
	published   *mountmgrv1.PublishVolumeRequest
	unpublished *mountmgrv1.UnpublishVolumeRequest
	stats       *mountmgrv1.GetVolumeStatsResponse
	ready       bool
	err         error
}

func (r *recorder) Publish(_ context.Context, request *mountmgrv1.PublishVolumeRequest) error {
	r.published = request
	return r.err
}

func (r *recorder) Unpublish(_ context.Context, request *mountmgrv1.UnpublishVolumeRequest) error {
	r.unpublished = request
	return r.err
}

func (r *recorder) Stats(context.Context, *mountmgrv1.GetVolumeStatsRequest) (*mountmgrv1.GetVolumeStatsResponse, error) {
	return r.stats, r.err
}

func (r *recorder) Ready(context.Context) (bool, error) { return r.ready, r.err }

func publishRequest() *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId:   "volume",
		TargetPath: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pv/mount",
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{
				MountFlags: []string{"cache-size=100", "writeback"},
			}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
		},
		Readonly: true,
		Secrets:  map[string]string{"metaurl": "redis://host/1"},
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/pod.name": "app", "csi.storage.k8s.io/pod.namespace": "default",
			"csi.storage.k8s.io/pod.uid": "uid", "csi.storage.k8s.io/serviceAccount.name": "sa",
			"juicefs/mount-cpu-limit": "1",
		},
	}
}

func TestPublishHandsEverythingOn(t *testing.T) {
	mounter := &recorder{}
	request := publishRequest()
	if _, err := (&driver.Node{Mounter: mounter}).NodePublishVolume(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	want := &mountmgrv1.PublishVolumeRequest{
		VolumeId: "volume", TargetPath: request.GetTargetPath(), VolumeContext: request.GetVolumeContext(),
		Secrets: request.GetSecrets(), MountFlags: []string{"cache-size=100", "writeback"}, ReadOnly: true,
		AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
		Pod:        &mountmgrv1.PodReference{Namespace: "default", Name: "app", Uid: "uid", ServiceAccount: "sa"},
	}
	if diff := cmp.Diff(want, mounter.published, protocmp.Transform()); diff != "" {
		t.Errorf("request to the mount manager (-want +got):\n%s", diff)
	}
}

func TestPublishTranslatesEveryAccessMode(t *testing.T) {
	for number, name := range csi.VolumeCapability_AccessMode_Mode_name {
		mode := csi.VolumeCapability_AccessMode_Mode(number)
		if mode == csi.VolumeCapability_AccessMode_UNKNOWN {
			continue
		}
		mounter := &recorder{}
		request := publishRequest()
		request.VolumeCapability.AccessMode.Mode = mode
		if _, err := (&driver.Node{Mounter: mounter}).NodePublishVolume(t.Context(), request); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, want := mounter.published.GetAccessMode().String(), "ACCESS_MODE_"+name; got != want {
			t.Errorf("%s became %s, want %s", name, got, want)
		}
	}
}

func TestPublishRefuses(t *testing.T) {
	tests := map[string]struct {
		change func(*csi.NodePublishVolumeRequest)
		text   string
	}{
		"no volume id": {func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "" }, "volume id is missing"},
		"no target":    {func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "" }, "target path is missing"},
		"relative target": {
			func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "some/path" },
			"target path some/path is not an absolute, clean path",
		},
		"target with dots": {
			func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "/var/lib/kubelet/../../etc" },
			"target path /var/lib/kubelet/../../etc is not an absolute, clean path",
		},
		"no capability": {func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = nil }, "volume capability is missing"},
		"block": {func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, "JuiceFS volumes are file systems: set volumeMode: Filesystem"},
		"no access type": {
			func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.AccessType = nil },
			"access type of the volume capability is missing",
		},
		"no access mode": {
			func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.AccessMode = nil },
			"access mode of the volume capability is missing",
		},
		"new access mode": {
			func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.AccessMode.Mode = 99 },
			"access mode 99 is unknown to this release",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			mounter := &recorder{}
			request := publishRequest()
			test.change(request)
			_, err := (&driver.Node{Mounter: mounter}).NodePublishVolume(t.Context(), request)
			if !errdefs.IsInvalidArgument(err) || err.Error() != test.text+": invalid argument" {
				t.Errorf("got %v, want %s", err, test.text)
			}
			if mounter.published != nil {
				t.Error("the mount manager was called")
			}
		})
	}
}

func TestUnpublish(t *testing.T) {
	mounter := &recorder{}
	node := &driver.Node{Mounter: mounter}
	_, err := node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "volume", TargetPath: "/target"})
	if err != nil {
		t.Fatal(err)
	}
	want := &mountmgrv1.UnpublishVolumeRequest{VolumeId: "volume", TargetPath: "/target"}
	if !proto.Equal(want, mounter.unpublished) {
		t.Errorf("request to the mount manager %v, want %v", mounter.unpublished, want)
	}
	for _, request := range []*csi.NodeUnpublishVolumeRequest{
		{TargetPath: "/target"}, {VolumeId: "volume"}, {VolumeId: "volume", TargetPath: "target"},
	} {
		if _, err := node.NodeUnpublishVolume(t.Context(), request); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, want an invalid argument", request, err)
		}
	}
}

func TestStats(t *testing.T) {
	mounter := &recorder{stats: &mountmgrv1.GetVolumeStatsResponse{
		Bytes:  &mountmgrv1.Usage{Total: 3, Used: 1, Available: 2},
		Inodes: &mountmgrv1.Usage{Total: 30, Used: 10, Available: 20},
	}}
	node := &driver.Node{Mounter: mounter}
	request := &csi.NodeGetVolumeStatsRequest{VolumeId: "pvc-1", VolumePath: "some/path"}
	got, err := node.NodeGetVolumeStats(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	want := &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: 3, Used: 1, Available: 2},
		{Unit: csi.VolumeUsage_INODES, Total: 30, Used: 10, Available: 20},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	mounter.stats = &mountmgrv1.GetVolumeStatsResponse{Abnormal: true, Message: "the client does not answer"}
	_, err = node.NodeGetVolumeStats(t.Context(), request)
	if !errdefs.IsUnavailable(err) || err.Error() != "volume pvc-1 is abnormal: the client does not answer: unavailable" {
		t.Errorf("abnormal: %v", err)
	}
	mounter.err = errdefs.ErrNotFound
	if _, err = node.NodeGetVolumeStats(t.Context(), request); !errdefs.IsNotFound(err) {
		t.Errorf("unknown path: %v", err)
	}
	for _, request := range []*csi.NodeGetVolumeStatsRequest{{VolumePath: "/path"}, {VolumeId: "volume"}} {
		if _, err := node.NodeGetVolumeStats(t.Context(), request); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, want an invalid argument", request, err)
		}
	}
}

func TestProbe(t *testing.T) {
	tests := map[string]struct {
		mounter recorder
		ready   bool
		check   func(error) bool
	}{
		"ready":          {mounter: recorder{ready: true}, ready: true},
		"starting":       {mounter: recorder{}},
		"away":           {mounter: recorder{err: errdefs.ErrUnavailable}},
		"other versions": {mounter: recorder{err: errdefs.ErrFailedPrecondition}, check: errdefs.IsFailedPrecondition},
	}
	for name, test := range tests {
		response, err := (&driver.Identity{Mounter: &test.mounter}).Probe(t.Context(), &csi.ProbeRequest{})
		if test.check != nil {
			if !test.check(err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || response.GetReady().GetValue() != test.ready {
			t.Errorf("%s: %v, %v, want ready %v", name, response, err, test.ready)
		}
	}
}

func TestErrorsPassThrough(t *testing.T) {
	cause := errors.New("whatever the mount manager says")
	node := &driver.Node{Mounter: &recorder{err: cause}}
	_, publish := node.NodePublishVolume(t.Context(), publishRequest())
	_, unpublish := node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "volume", TargetPath: "/target"})
	if !errors.Is(publish, cause) || publish.Error() != cause.Error() || !errors.Is(unpublish, cause) || unpublish.Error() != cause.Error() {
		t.Errorf("got %v and %v, want %v", publish, unpublish, cause)
	}
}
