//go:build kernel

package processhost_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
)

// BenchmarkDenseNode publishes b.N volumes, each with a file system of its own,
// and then each of them at a second target, when all are there. Run it with
// -benchtime=200x.
func BenchmarkDenseNode(b *testing.B) {
	n := nodetest.NewProcessNode(b)
	before := memory(b, os.Getpid(), "VmRSS")
	var cold, warm []time.Duration
	var launchers, clients int
	for i := range b.N {
		took, record := timedPublish(b, n, i, "first")
		cold = append(cold, took)
		launchers += memory(b, int(record), "VmRSS")
	}
	for i := range b.N {
		took, record := timedPublish(b, n, i, "second")
		warm = append(warm, took)
		for _, pid := range childrenOf(b, record) {
			clients += memory(b, pid, "RssAnon")
		}
	}
	b.ReportMetric(percentile(cold, 50), "ms-cold-p50")
	b.ReportMetric(percentile(cold, 99), "ms-cold-p99")
	b.ReportMetric(percentile(warm, 50), "ms-warm-p50")
	b.ReportMetric(percentile(warm, 99), "ms-warm-p99")
	b.ReportMetric(float64(launchers)/float64(b.N), "KiB-RSS/jfs-launch")
	b.ReportMetric(float64(clients)/float64(b.N), "KiB-anon/client")
	b.ReportMetric(float64(memory(b, os.Getpid(), "VmRSS")-before)/float64(b.N), "KiB-RSS/mount-here")
	b.ReportMetric(float64(memory(b, os.Getpid(), "Threads")), "threads-here")
}

// timedPublish returns how long it took, and the process id of the mount's
// jfs-launch.
func timedPublish(b *testing.B, n *nodetest.Node, volume int, name string) (time.Duration, int32) {
	b.Helper()
	id := fmt.Sprintf("pv-%d", volume)
	request := manager.PublishRequest{
		VolumeID: id, TargetPath: n.Target(id + "-" + name), Attributes: n.Attributes(), Secret: n.Secret(id),
		MountOptions: []string{"buffer-size=32", "cache-size=0"},
	}
	ctx, cancel := context.WithTimeout(b.Context(), 100*time.Second)
	defer cancel()
	began := time.Now()
	record, _, err := n.Manager.Publish(ctx, request)
	took := time.Since(began)
	if err != nil {
		b.Fatal(err)
	}
	return took, record.Client.Launcher.PID
}

func percentile(durations []time.Duration, share int) float64 {
	sorted := slices.Sorted(slices.Values(durations))
	return float64(sorted[(len(sorted)-1)*share/100].Microseconds()) / 1000
}

// memory reads a number of /proc/PID/status, most of which are in KiB.
func memory(b *testing.B, pid int, field string) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^` + field + `:\s*([0-9]+)`).FindSubmatch(text)
	if match == nil {
		b.Fatalf("process %d has no %s", pid, field)
	}
	number, err := strconv.Atoi(string(match[1]))
	if err != nil {
		b.Fatal(err)
	}
	return number
}

func childrenOf(b *testing.B, pid int32) []int {
	b.Helper()
	var pids []int
	for _, text := range children(b, pid) {
		number, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		pids = append(pids, number)
	}
	return pids
}
