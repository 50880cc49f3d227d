package driver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/node/internal/driver"
	"github.com/juicefs-csi/driver/services/node/internal/metrics"
)

func counting(t *testing.T, mounter driver.Mounter) (*driver.Node, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	counted, err := metrics.New(registry, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	return &driver.Node{Mounter: mounter, Metrics: counted}, registry
}

func target(pod int) string {
	return fmt.Sprintf("/var/lib/kubelet/pods/uid-%d/volumes/kubernetes.io~csi/pv/mount", pod)
}

func TestHealth(t *testing.T) {
	mounter := &recorder{stats: &mountmgrv1.GetVolumeStatsResponse{}}
	node, registry := counting(t, mounter)
	request := &csi.NodeGetVolumeHealthRequest{VolumeId: "pv", VolumePublishPath: target(1)}
	want := func(when, text string, statuses int) {
		t.Helper()
		response, err := node.NodeGetVolumeHealth(t.Context(), request)
		if err != nil || response.GetVolumeHealth().GetVolumeId() != "pv" || len(response.GetVolumeHealth().GetHealthStatuses()) != statuses {
			t.Errorf("%s: %v, %v", when, response, err)
		}
		if text != "" {
			text = "# HELP juicefs_volume_path_health Whether the volume at a target path answers: 1, or 0. " +
				"Known from kubelet's last question for its usage.\n# TYPE juicefs_volume_path_health gauge\n" +
				`juicefs_volume_path_health{node_name="node-1",pod_uid="uid-1",volume_id="pv",volume_path="` + target(1) + `"} ` + text + "\n"
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), "juicefs_volume_path_health"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	want("it answers", "1", 0)
	mounter.stats = &mountmgrv1.GetVolumeStatsResponse{Abnormal: true, Message: "does not answer"}
	want("it does not", "0", 1)
	if _, err := node.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "pv", VolumePath: target(1)}); err == nil {
		t.Error("an abnormal volume has usage")
	}
	mounter.err = errdefs.ErrUnavailable
	if _, err := node.NodeGetVolumeHealth(t.Context(), request); !errdefs.IsUnavailable(err) {
		t.Errorf("the mount manager is away: %v", err)
	}
	mounter.err = nil
	want("it was away", "0", 1)
	mounter.err = errdefs.ErrNotFound
	if _, err := node.NodeGetVolumeHealth(t.Context(), request); !errdefs.IsNotFound(err) {
		t.Errorf("not published: %v", err)
	}
	mounter.err = nil
	request.VolumePublishPath = ""
	want("without a path", "", 0)
	request.VolumeId = ""
	if _, err := node.NodeGetVolumeHealth(t.Context(), request); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a volume: %v", err)
	}
}

func TestErrorsAreCounted(t *testing.T) {
	mounter := &recorder{err: errors.New("no")}
	node, registry := counting(t, mounter)
	for range 2 {
		_, _ = node.NodePublishVolume(t.Context(), publishRequest())
	}
	unpublish := &csi.NodeUnpublishVolumeRequest{VolumeId: "pv", TargetPath: target(1)}
	_, _ = node.NodeUnpublishVolume(t.Context(), unpublish)
	mounter.err = nil
	_, publishErr := node.NodePublishVolume(t.Context(), publishRequest())
	_, unpublishErr := node.NodeUnpublishVolume(t.Context(), unpublish)
	if publishErr != nil || unpublishErr != nil {
		t.Fatal(publishErr, unpublishErr)
	}
	const want = `# HELP juicefs_volume_del_errors Volumes that could not be taken away from a pod, each try counted.
# TYPE juicefs_volume_del_errors counter
juicefs_volume_del_errors{node_name="node-1"} 1
# HELP juicefs_volume_errors Volumes that could not be published to a pod, each try counted.
# TYPE juicefs_volume_errors counter
juicefs_volume_errors{node_name="node-1"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// late is a Mounter whose volumes are unpublished while they are asked for
// their usage.
type late struct {
	recorder
	node *driver.Node
}

func (l *late) Stats(ctx context.Context, request *mountmgrv1.GetVolumeStatsRequest) (*mountmgrv1.GetVolumeStatsResponse, error) {
	_, err := l.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
		VolumeId: request.GetVolumeId(), TargetPath: request.GetVolumePath(),
	})
	return &mountmgrv1.GetVolumeStatsResponse{}, err
}

func TestSeriesEndWithTheirTarget(t *testing.T) {
	const targets = 1000
	mounter := &late{}
	mounter.stats = &mountmgrv1.GetVolumeStatsResponse{}
	node, registry := counting(t, &mounter.recorder)
	mounter.node = node
	series := func() int {
		t.Helper()
		count, err := testutil.GatherAndCount(registry)
		if err != nil {
			t.Fatal(err)
		}
		return count
	}
	before := series()
	publish := func(pod int) *csi.NodeGetVolumeStatsRequest {
		request := publishRequest()
		request.TargetPath = target(pod)
		if _, err := node.NodePublishVolume(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		return &csi.NodeGetVolumeStatsRequest{VolumeId: "volume", VolumePath: target(pod)}
	}
	for pod := range targets {
		if _, err := node.NodeGetVolumeStats(t.Context(), publish(pod)); err != nil {
			t.Fatal(err)
		}
	}
	if got := series(); got != before+targets {
		t.Errorf("%d series while all are published, want %d", got, before+targets)
	}
	for pod := range targets {
		_, err := node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "volume", TargetPath: target(pod)})
		if err != nil {
			t.Fatal(err)
		}
	}
	node.Mounter = mounter
	for pod := range targets {
		if _, err := node.NodeGetVolumeStats(t.Context(), publish(pod)); err != nil {
			t.Fatal(err)
		}
	}
	if got := series(); got != before {
		t.Errorf("%d series afterwards, want %d", got, before)
	}
}
