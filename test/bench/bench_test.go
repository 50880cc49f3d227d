package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/test/bench/workload"
	"github.com/juicefs-csi/driver/test/devcluster"
)

func TestPercentile(t *testing.T) {
	values := []int{50, 10, 40, 20, 30}
	for p, want := range map[int]int{0: 10, 1: 10, 50: 30, 80: 40, 81: 50, 99: 50, 100: 50} {
		if got := percentile(values, p); got != want {
			t.Errorf("percentile %d = %d, want %d", p, got, want)
		}
	}
	if got := percentile([]time.Duration(nil), 50); got != 0 {
		t.Errorf("percentile of nothing = %v", got)
	}
}

func TestParseHandled(t *testing.T) {
	const metrics = `# HELP grpc_server_handling_seconds Histogram
grpc_server_handling_seconds_bucket{grpc_method="NodePublishVolume",grpc_service="csi.v1.Node",le="0.1"} 2
grpc_server_handling_seconds_sum{grpc_method="NodeGetInfo",grpc_service="csi.v1.Node"} 7
grpc_server_handling_seconds_sum{grpc_method="NodePublishVolume",grpc_service="csi.v1.Node"} 1.25e-01
grpc_server_handling_seconds_count{grpc_method="NodePublishVolume",grpc_service="csi.v1.Node"} 3
`
	got, err := parseHandled(bufio.NewScanner(strings.NewReader(metrics)), "NodePublishVolume")
	if want := (handled{calls: 3, seconds: 0.125}); got != want || err != nil {
		t.Errorf("parseHandled = %+v, %v, want %+v", got, err, want)
	}
	if _, err := parseHandled(bufio.NewScanner(strings.NewReader(metrics)), "NodeExpandVolume"); err == nil {
		t.Error("a missing metric is not an error")
	}
}

func TestRequestsInAWindow(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	const mountmgr = accountPrefix + "csi-mountmgr-sa"
	events := []devcluster.AuditEvent{
		{User: mountmgr, Verb: "create", URI: "/api/v1/namespaces/kube-system/pods", Code: 201, Received: at(10)},
		{User: mountmgr, URI: "/api/v1/early", Received: at(9)},
		{User: mountmgr, URI: "/api/v1/late", Received: at(20)},
		{User: mountmgr, URI: "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x", Received: at(15)},
		{User: "system:serviceaccount:kube-system:job-controller", URI: "/api/v1/other", Received: at(15)},
	}
	var got []string
	for _, event := range requestsIn(events, window{at(10), at(20)}) {
		got = append(got, describe(event))
	}
	if want := []string{"csi-mountmgr-sa create api/v1/namespaces/*/pods 201"}; !slices.Equal(got, want) {
		t.Errorf("requests = %q, want %q", got, want)
	}
}

func TestInWindow(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	records := []workload.Record{
		{Kind: workload.Slow, Start: at(9).UnixNano(), Duration: (3 * time.Second).Nanoseconds()},
		{Kind: workload.Pending, Start: at(12).UnixNano(), Duration: (5 * time.Second).Nanoseconds()},
		{Kind: workload.Failed, Start: at(13).UnixNano(), Duration: 1, Operation: "append.write", Error: "bad"},
		{Kind: workload.Second, Start: at(13).UnixNano(), Duration: (9 * time.Second).Nanoseconds()},
	}
	for _, c := range []struct {
		from, to int64
		longest  time.Duration
		failed   int
	}{
		{1, 5, workload.Threshold, 0},
		{10, 11, 3 * time.Second, 0},
		{12, 14, 5 * time.Second, 1},
	} {
		longest, failed := inWindow(records, window{at(c.from), at(c.to)})
		if longest != c.longest || failed["append.write: bad"] != c.failed {
			t.Errorf("window %d to %d = %v, %v, want %v and %d", c.from, c.to, longest, failed, c.longest, c.failed)
		}
	}
}

func TestHandOverTimes(t *testing.T) {
	const log = `time=x level=INFO msg=state state=HandingOver
time=x level=INFO msg="handed over" mount_id=a duration=12.5ms pod=p
`
	got, err := handOverTimes(log)
	if want := []time.Duration{12500 * time.Microsecond}; !slices.Equal(got, want) || err != nil {
		t.Errorf("handOverTimes = %v, %v, want %v", got, err, want)
	}
}

func TestImageSize(t *testing.T) {
	write := func(layer string) string {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, file := range []struct{ name, content string }{
			{layer, "12345"}, {"config", "123"},
			{"manifest.json", `[{"Config":"config","Layers":["` + layer + `"]}]`},
		} {
			header := &tar.Header{Name: file.name, Size: int64(len(file.content)), Mode: 0o600}
			if err := w.WriteHeader(header); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(file.content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "image.tar")
		if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if size, err := imageSize(write("layer.tar.gz")); size != 8 || err != nil {
		t.Errorf("imageSize = %d, %v, want 8", size, err)
	}
	if _, err := imageSize(write("layer.tar")); err == nil {
		t.Error("an archive that is not compressed has a size")
	}
}

func TestReadProcess(t *testing.T) {
	p, err := readProcess("/proc/self/status")
	if err != nil || p.rss <= p.anonymous || p.anonymous <= 0 || p.name == "" {
		t.Errorf("readProcess of this test = %+v, %v", p, err)
	}
}
