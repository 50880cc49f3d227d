package configfile

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// mounted is a ConfigMap as kubelet mounts it: the file is a link into ..data,
// which is a link to the directory of one version.
type mounted struct {
	t       *testing.T
	dir     string
	version int
}

func (m *mounted) path() string { return filepath.Join(m.dir, "config.yaml") }

// set replaces the content as kubelet does.
func (m *mounted) set(text string) {
	m.t.Helper()
	m.version++
	version := fmt.Sprintf("..version-%d", m.version)
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(m.dir, version), 0o700))
	must(os.WriteFile(filepath.Join(m.dir, version, "config.yaml"), []byte(text), 0o600))
	must(os.Symlink(version, filepath.Join(m.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, "..data")))
	if m.version == 1 {
		must(os.Symlink("..data/config.yaml", m.path()))
	}
}

// opened is a file under test with what it has told.
type opened struct {
	*File
	registry *prometheus.Registry

	mu      sync.Mutex
	log     bytes.Buffer
	reports []string
}

func (o *opened) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(p)
}

func (o *opened) logged() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.String()
}

func open(t *testing.T, path string) *opened {
	t.Helper()
	o := &opened{registry: prometheus.NewPedanticRegistry()}
	file, err := Open(Options{
		Path: path, Log: slog.New(slog.NewTextHandler(o, nil)), Registry: o.registry,
		Report: func(fault error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.reports = append(o.reports, fmt.Sprint(fault))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.File = file
	return o
}

func (o *opened) image(t *testing.T) string {
	t.Helper()
	config, err := o.Config()
	if err != nil {
		t.Fatal(err)
	}
	if len(config.MountPodPatch) == 0 {
		return ""
	}
	return config.MountPodPatch[0].CEMountImage
}

func (o *opened) metrics(t *testing.T, valid, accepted, refused int) {
	t.Helper()
	want := fmt.Sprintf(`
# HELP juicefs_csi_mountmgr_config_reloads_total Contents of the driver's ConfigMap that were read and accepted or refused.
# TYPE juicefs_csi_mountmgr_config_reloads_total counter
juicefs_csi_mountmgr_config_reloads_total{result="accepted"} %d
juicefs_csi_mountmgr_config_reloads_total{result="refused"} %d
# HELP juicefs_csi_mountmgr_config_valid 1 when the driver's ConfigMap can be used, 0 when its last good content is used instead.
# TYPE juicefs_csi_mountmgr_config_valid gauge
juicefs_csi_mountmgr_config_valid %d
`, accepted, refused, valid)
	if err := testutil.GatherAndCompare(o.registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestNoFileIsTheDefault(t *testing.T) {
	o := open(t, filepath.Join(t.TempDir(), "none", "config.yaml"))
	if image := o.image(t); image != "" {
		t.Error(image)
	}
	o.metrics(t, 1, 1, 0)
}

func TestABadFileKeepsTheOldSettings(t *testing.T) {
	m := &mounted{t: t, dir: t.TempDir()}
	m.set("mountPodPatch: [{ceMountImage: one}]")
	o := open(t, m.path())
	for _, bad := range []string{"mountPodPatch: [{ceMuontImage: two}]", "mountPodPatch: [", "\tx"} {
		m.set(bad)
		o.reload()
		o.reload() // It is told once.
		if image := o.image(t); image != "one" {
			t.Errorf("image %q", image)
		}
	}
	o.metrics(t, 0, 1, 3)
	m.set("mountPodPatch: [{ceMountImage: three}]")
	o.reload()
	if image := o.image(t); image != "three" {
		t.Errorf("image %q", image)
	}
	o.metrics(t, 1, 2, 3)
	if len(o.reports) != 4 || !strings.Contains(o.reports[0], "ceMuontImage") || o.reports[3] != "<nil>" {
		t.Errorf("reports %q", o.reports)
	}
}

func TestABadFileAtTheStartRefusesUntilMended(t *testing.T) {
	m := &mounted{t: t, dir: t.TempDir()}
	m.set("enableSetQouta: true")
	o := open(t, m.path())
	_, err := o.Config()
	if !errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "enableSetQouta") {
		t.Errorf("%v", err)
	}
	m.set("enableSetQuota: false")
	o.reload()
	if config, err := o.Config(); err != nil || config.EnableSetQuota == nil {
		t.Errorf("%v, %v", config, err)
	}
	if len(o.reports) != 2 {
		t.Errorf("reports %q", o.reports)
	}
}

func TestAFileThatCannotBeReadIsAFault(t *testing.T) {
	o := open(t, t.TempDir()) // A directory.
	if _, err := o.Config(); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	o.reload()
	o.metrics(t, 0, 0, 1)
}

func TestSettingsWithoutEffectAreToldOncePerChange(t *testing.T) {
	m := &mounted{t: t, dir: t.TempDir()}
	m.set("enableKubeletListMountPod: true")
	o := open(t, m.path())
	count := func(want int) {
		t.Helper()
		if got := strings.Count(o.logged(), "settings without effect"); got != want {
			t.Errorf("told %d times, want %d:\n%s", got, want, o.logged())
		}
	}
	o.reload()
	count(1)
	m.set(`mountPodPatch: [{livenessProbe: {exec: {command: ["stat", "${MOUNT_POINT}"]}}}]`)
	o.reload()
	count(2)
	if !strings.Contains(o.logged(), "mountPodPatch[0].livenessProbe") {
		t.Error(o.logged())
	}
}

func TestRunSeesWhatKubeletChanges(t *testing.T) {
	m := &mounted{t: t, dir: t.TempDir()}
	m.set("mountPodPatch: [{ceMountImage: one}]")
	o := open(t, m.path())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	for _, image := range []string{"two", "three"} {
		m.set("mountPodPatch: [{ceMountImage: " + image + "}]")
		deadline := time.After(30 * time.Second)
		ticker := time.NewTicker(5 * time.Millisecond)
		for o.image(t) != image {
			select {
			case <-deadline:
				t.Fatalf("still %q instead of %q", o.image(t), image)
			case <-ticker.C:
			}
		}
		ticker.Stop()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
